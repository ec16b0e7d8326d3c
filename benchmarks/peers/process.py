"""Peers seen from the parent: how each is started, asked, and stopped while others have their turn."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .protocol import Load, Run, Stamp

HERE = Path(__file__).parent
ENTROPICK_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
VLLM_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


def environment(**added: str) -> dict[str, str]:
    """This process's environment with libgomp's own way of waiting: threads spin a while, then sleep.

    Peers are faster so than with PASSIVE, under which entropick is started (Makefile) and asks for itself.
    """
    own = {"OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT"}
    return {**{name: value for name, value in os.environ.items() if name not in own}, **added}


class PeerError(RuntimeError):
    """A peer that cannot be started or that failed; the message says where its own words are."""


@dataclass(frozen=True, slots=True)
class Spec:
    """How a peer is started. ``python``: the environment; "" is this one."""

    script: str
    arguments: tuple[str, ...] = ()
    python: str = ""
    environment: dict[str, str] = field(default_factory=dict)


SPECS = {
    "entropick": Spec("run_entropick.py", ("on",), "", ENTROPICK_ENVIRONMENT),
    "off": Spec("run_entropick.py", ("off",), "", ENTROPICK_ENVIRONMENT),
    "generate": Spec("run_generate.py"),
    # it asks psutil for the memory, which comes with vLLM
    "continuous": Spec("run_continuous.py", (), "vllm"),
    # compiled it is nearly twice as fast on a small model; "eager" starts in a tenth of the time
    "vllm": Spec("run_vllm.py", ("compiled",), "vllm", VLLM_ENVIRONMENT),
    "vllm-eager": Spec("run_vllm.py", ("eager",), "vllm", VLLM_ENVIRONMENT),
    "llama.cpp": Spec("run_llama.py", (), "llama"),
}


@dataclass(frozen=True, slots=True)
class Environments:
    """Interpreters of the peers that live apart."""

    vllm: Path
    llama: Path

    def python(self, name: str) -> Path:
        return {"": Path(sys.executable), "vllm": self.vllm, "llama": self.llama}[name]

    def libraries(self, name: str) -> dict[str, str]:
        """llama-cpp-python loads the libraries that were built beside llama-server."""
        built = self.llama.parent.parent / "llama.cpp" / "bin"
        return {"LLAMA_CPP_LIB_PATH": str(built)} if name == "llama" and built.is_dir() else {}


class Process:
    """Any process in a group of its own, which can be stopped as a whole."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path, pipes: bool) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as words:
            self.popen = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else words,
                stderr=words,
                text=True,
                start_new_session=True,
            )

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """It runs inside, and is stopped outside: no thread of it can spin while others are measured."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def end(self) -> None:
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            self.popen.wait(20)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.popen.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)


class Peer:
    """A loaded peer; stopped except while it answers. Raises PeerError."""

    def __init__(self, key: str, environments: Environments, asked: Load, build: Path) -> None:
        spec = SPECS[key]
        python = environments.python(spec.python)
        if not python.is_file():
            raise PeerError(f"{key}: no environment ({python} is missing): make bench-peers sets it up")
        self.key = key
        self.process = Process(
            [str(python), str(HERE / spec.script), *spec.arguments],
            environment(
                ENTROPICK_PROFILES=str(build / "profiles"),
                **environments.libraries(spec.python),
                **spec.environment,
            ),
            build / "logs" / f"{key}.log",
            pipes=True,
        )
        try:
            with self.process.turn():
                self.name = str(self._ask({"op": "load", **asdict(asked)})["name"])
        except BaseException:
            self.process.end()
            raise

    def run(self, prompts: list[list[int]], tokens: int, greedy: bool = False) -> Run:
        with self.process.turn():
            answer = self._ask({"op": "run", "prompts": prompts, "tokens": tokens, "greedy": greedy})
        stamps = {name: Stamp(**answer[name]) for name in ("start", "begin", "end")}
        return Run(**stamps, after=answer["after"], ids=answer["ids"])

    def _ask(self, message: dict[str, object]) -> dict:
        pipe, answers = self.process.popen.stdin, self.process.popen.stdout
        if pipe is None or answers is None:
            raise PeerError(f"{self.key}: no pipes")
        try:
            pipe.write(json.dumps(message) + "\n")
            pipe.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.process.end()
            said = self.process.log.read_text().strip().splitlines()[-1:]
            raise PeerError(f"{self.key}: {said[0] if said else 'ended without a word'} ({self.process.log})")
        return dict(json.loads(line))
