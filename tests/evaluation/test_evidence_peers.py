"""Other servers and gateways as arms: what is asked, how a server is run, what an answer costs."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from entropick_eval.runner import Job, seed_of
from entropick_eval.targets import TargetError
from evidence import gateway, llama, peer
from evidence.plan import EvidencePlan, read_plan

from .support import item

SERVER = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def plan() -> EvidencePlan:
    return read_plan()


def test_a_server_runs_as_long_as_it_is_asked(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    with llama.serving([sys.executable, str(script)]) as url:
        assert httpx.get(f"{url}/health").status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_a_server_that_ends_is_no_server() -> None:
    with (
        pytest.raises(TargetError, match="ended with code 3"),
        llama.serving([sys.executable, "-c", "raise SystemExit(3)"]),
    ):
        pass


def test_the_command_of_llama_server() -> None:
    line = llama.command(Path("/x/llama-server"), Path("/y/model.gguf"), 1, 4)
    assert line[:3] == ["/x/llama-server", "-m", "/y/model.gguf"]
    assert line[line.index("-c") + 1] == "4096"
    assert line[-1] == "--port"  # its number follows


def test_llama_cpps_arms_are_fields_of_its_own(plan: EvidencePlan) -> None:
    arms = plan.models["llama.cpp"].arms.requests
    assert set(arms) == {
        "llama_cpp_greedy", "llama_cpp_default", "llama_cpp_min_p", "llama_cpp_dynatemp",
        "llama_cpp_top_n_sigma", "llama_cpp_mirostat",
    }  # fmt: skip
    assert not [name for name, arm in arms.items() if "entropick" in arm.body]


def test_its_hub_draws_the_replies_of_our_own_arm(plan: EvidencePlan) -> None:
    arms = plan.models["its_hub"].arms.requests
    one = item(1, 42)
    asked = gateway.question(plan, Job(arms["its_hub_adaptive"], one, 0), "http://here")
    sampling = plan.models["smollm2"].arms.requests["sampling"]
    assert asked["seeds"] == [seed_of(one, sampling, number) for number in range(9)]
    assert asked["body"] | dict(sampling.body) | {"entropick": asked["body"]["entropick"]} == asked["body"]
    assert asked["body"]["entropick"] == {"telemetry": "none", "policy": "fixed"}
    assert (asked["algorithm"], asked["options"], asked["budget"]) == ("adaptive", {"threshold": 0.75}, 9)
    assert asked["extract"] == "last_number"


DRIVER = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if asked["budget"] == 0:
        break
    found = {"text": asked["body"]["q"], "finish": "stop", "tokens": 3, "completed": 9, "seconds": 0.5}
    print(json.dumps(found), flush=True)
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    (tmp_path / "driver.py").write_text(DRIVER)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "driver.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        yield running
        running.kill()


def test_an_answer_of_the_driver(process: subprocess.Popen[str]) -> None:
    reply = gateway.through(process, {"budget": 9, "body": {"q": "yes"}})
    assert (reply.text, reply.tokens, reply.spent) == ("yes", 3, 9)
    with pytest.raises(TargetError, match="ended"):
        gateway.through(process, {"budget": 0})


async def test_tokens_are_counted_when_nothing_runs_any_more() -> None:
    numbers = iter([10, 14, 17, 17, 99])

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/metrics"
        lines = [
            f'entropick_generation_tokens_total{{model_name="m"}} {float(next(numbers))}',
            'entropick_generation_tokens_created{model_name="m"} 5e9',
        ]
        return httpx.Response(200, text="\n".join(lines))

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        assert await gateway.generated(client, "http://here") == 10
        assert await gateway.settled(client, "http://here") == 17


# -- the driver, with a package in the place of its_hub -------------------------------------------------

STUB_API = """
class AbstractLanguageModel:
    pass
"""
STUB_ALGORITHM = """
class {name}:
    def __init__(self, consistency_space_projection_func, **options):
        self.project, self.options = consistency_space_projection_func, options
    async def ainfer(self, lm, prompt, budget):
        replies = [await lm.agenerate_single([prompt]) for _ in range(budget)]
        votes = [self.project(reply["content"]) for reply in replies]
        return max(replies, key=lambda reply: votes.count(self.project(reply["content"])))
"""


def test_the_driver_votes_over_our_answers(tmp_path: Path) -> None:
    package = tmp_path / "its_hub"
    (package / "core" / "algorithms").mkdir(parents=True)
    for folder in (package, package / "core", package / "core" / "algorithms"):
        (folder / "__init__.py").write_text("")
    (package / "api.py").write_text(STUB_API)
    for module, name in (
        ("self_consistency", "SelfConsistency"),
        ("adaptive_self_consistency", "AdaptiveSelfConsistency"),
        ("beta_self_consistency", "BetaSelfConsistency"),
    ):
        (package / "core" / "algorithms" / f"{module}.py").write_text(STUB_ALGORITHM.format(name=name))
    script = tmp_path / "run.py"
    script.write_text(
        "import asyncio, json, sys, httpx\n"
        f"sys.path[:0] = [{str(Path(gateway.__file__).parent)!r}, {str(tmp_path)!r}]\n"
        "import its_hub_driver as driver\n"
        "texts = {1: 'It is 3.', 2: 'no idea', 3: 'no clue', 4: '1 + 2 = 3'}\n"
        "def answer(request):\n"
        "    seed = json.loads(request.content)['seed']\n"
        "    choice = {'message': {'content': texts[seed]}, 'finish_reason': 'stop'}\n"
        "    usage = {'completion_tokens': seed}\n"
        "    return httpx.Response(200, json={'choices': [choice], 'usage': usage})\n"
        "async def main():\n"
        "    body = {'messages': [{'content': 'q'}]}\n"
        "    question = {'url': 'http://h', 'body': body, 'seeds': [1, 2, 3, 4], 'budget': 4,\n"
        "                'algorithm': 'beta', 'options': {}, 'extract': 'last_number'}\n"
        "    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:\n"
        "        print(json.dumps(await driver.answer(client, question)))\n"
        "        lm = driver.Replies(client, question)\n"
        "        batch = await lm.agenerate([[{'content': 'q'}]] * 3)\n"
        "        alone = await lm.agenerate([{'content': 'q'}])\n"
        "        print(json.dumps([*[one['content'] for one in batch], alone['content']]))\n"
        "asyncio.run(main())\n"
    )
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    one_line, batch_line = run.stdout.splitlines()
    assert json.loads(batch_line) == ["It is 3.", "no idea", "no clue", "1 + 2 = 3"]
    found: dict[str, Any] = json.loads(one_line)
    assert (found["text"], found["tokens"], found["completed"]) == ("It is 3.", 1, 10)


def test_a_signal_ends_what_a_command_started() -> None:
    ended: list[str] = []

    async def work(_: argparse.Namespace) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(60)
            return 0
        finally:
            ended.append("server")

    before = signal.getsignal(signal.SIGTERM)
    assert peer.run(peer.parser("evidence", None), work, []) == 130
    assert ended == ["server"]
    assert signal.getsignal(signal.SIGTERM) is before
