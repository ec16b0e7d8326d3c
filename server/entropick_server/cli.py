"""The console script ``entropick``: serve, calibrate, chat, explain, replay, eval, inspect and version."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from .engine.base import Calibrator, Engine, EngineError
from .engine.named_models import NAMED_MODELS
from .engine.types import EngineOptions
from .environment import drop_key
from .output import open_streams, say, settle
from .settings import Settings, SettingsError, load_settings
from .version import server_version

_EPILOG = """\
with --engine vllm, arguments behind -- are vLLM's own: serve MODEL --engine vllm -- --tensor-parallel-size 2

every option can also be set as ENTROPICK_<NAME> (ENTROPICK_MAX_MODEL_LEN=4096) or in the TOML file that
--config or ENTROPICK_CONFIG names; the command line wins over the environment, that over the file.
"""
_MODEL_HELP = (
    "folder of a model in Hugging Face format, a GGUF file, a name that is fetched once and kept "
    f"({', '.join(NAMED_MODELS)}), or a hub id; the first of these that there is"
)
# settings whose option is not simply --name VALUE
_SPECIAL = frozenset(
    {
        "model",
        "calibrate",
        "allow_unvalidated",
        "enable_prefix_caching",
        "batch_invariant",
        "compile_beside",
        "recent_prompts",
        "special_tokens_in_messages",
    }
)
# settings that take several values
_SEVERAL = frozenset({"served_model_name", "allowed_origins"})
_CALIBRATION = (
    "engine",
    "monitored_layers",
    "max_model_len",
    "max_num_batched_tokens",
    "chat_template",
    "chat_template_seconds",
    "kv_cache_bytes",
    "dtype",
    "device",
    "threads",
)
_CUT: Final = 3
"""exit code of a server that ended before all of its answers were delivered"""
_NO_VLLM: Final = (
    "--engine vllm needs vLLM, which is not installed: pip install 'entropick[vllm]' (for CUDA; docs/vllm.md "
    "names the CPU build)"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    open_streams()
    code, complete = 1, True
    try:
        code = _run(argv)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EPIPE):
            raise
        complete = False
    finally:
        complete = settle() and complete
    # the output of a server is for its operator; that of the other commands is what they are for
    if not complete and argv[:1] != ["serve"]:
        return _fail("the output cannot be written", 1)
    return code


def _run(argv: Sequence[str]) -> int:
    if argv[:1] == ["eval"]:
        # heavy imports; the evaluation parses its own options
        from entropick_eval.command import run

        return run(argv[1:], partial(serving_engine, theirs=()))
    if argv[:1] == ["inspect"]:
        from entropick_lens.command import run as look_inside

        return look_inside(argv[1:], _shipped_with_texts)
    if argv[:1] == ["chat"]:
        from .terminal.command import run as chat

        return chat(argv[1:])
    if argv[:1] in (["explain"], ["replay"]):
        from .inspection.command import run as inspect

        return inspect(argv)
    ours, theirs = _split(argv)
    if lora := next((option for option in ours if option.startswith("--") and "lora" in option), None):
        return _fail(f"{lora}: adapters (LoRA) are not served; merge them into the weights", 2)
    args = _parser().parse_args(ours)
    if args.command == "version":
        if theirs:
            return _fail("arguments behind -- are for --engine vllm", 2)
        print(server_version())
        return 0
    options = {name: getattr(args, name, None) for name in Settings.model_fields}
    given = {name: value for name, value in options.items() if value is not None}
    if args.model is None and len(getattr(args, "served_model_name", None) or ()) > 1:
        return _fail(
            "MODEL must stand before --served-model-name with several ids (for the shipped model: A,B)", 2
        )
    try:
        settings = load_settings(args.config, **given)
        # the processes below this one (vLLM's, pip, chat templates) have no use for it
        drop_key(os.environ)
        if theirs and settings.engine != "vllm":
            return _fail("arguments behind -- are vLLM's own: they need --engine vllm", 2)
        if settings.engine == "vllm" and find_spec("vllm") is None:
            return _fail(_NO_VLLM, 1)
        if args.command == "calibrate":
            return _calibrate(settings, theirs, args.data, args.output, args.clarify_text)
        return _serve(settings, theirs)
    except SettingsError as error:
        return _fail(str(error), 2)
    except EngineError as error:
        return _fail(str(error), 1)


def _fail(message: str, code: int) -> int:
    say(f"entropick: error: {' '.join(message.split())}", sys.stderr)
    return code


def _split(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Returns our arguments, and vLLM's arguments, which stand behind --."""
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], argv[at + 1 :]


def _serve(settings: Settings, theirs: Sequence[str]) -> int:
    if settings.log_format == "json" or sys.stderr is None or not sys.stderr.isatty():
        # every line of JSON is to be JSON, and a bar of libraries waits for ever for a full disk; they read
        # this when they are imported
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # heavy imports (torch), which neither --help nor `version` needs
    from .serve import DrainError, serve

    error = serve(serving_engine(settings, theirs), settings)
    if error is None:
        return 0
    if isinstance(error, DrainError):
        return _fail(str(error), _CUT)
    return _fail(f"the model could not be loaded: {error}", 1)


def serving_engine(settings: Settings, theirs: Sequence[str]) -> Engine:
    """Builds the engine that serves, which calibrates a model without a profile when it starts."""
    from .calibration import calibrate_first

    calibrator = partial(calibrate_first, concurrency=settings.max_num_seqs)
    return _engine(settings.engine, _engine_options(settings), theirs, calibrator)


def _engine(
    kind: str, options: EngineOptions, theirs: Sequence[str], calibrator: Calibrator | None
) -> Engine:
    """Builds an engine, which has not been started."""
    if kind == "vllm":
        from .engine.vllm.engine import VllmEngine

        return VllmEngine(options, theirs, calibrator)
    from .engine.embedded.engine import EmbeddedEngine

    return EmbeddedEngine(options, calibrator)


def _engine_options(settings: Settings) -> EngineOptions:
    """Returns the options of the engine; where no model is named, it is the shipped model."""
    if settings.model is not None:
        return settings.engine_options(settings.model)
    folder, name = _shipped_model()
    options = settings.engine_options(folder)
    return replace(options, served_model_name=options.served_model_name or name)


def _shipped_with_texts() -> tuple[str, str, Path]:
    """Returns the folder and the name of the shipped model, and the file of its calibration texts."""
    from entropick_pico import calibration_path

    return *_shipped_model(), calibration_path()


def _shipped_model() -> tuple[str, str]:
    """Returns the folder and the name of the shipped model."""
    from entropick_pico import MODEL_NAME, model_path

    return str(model_path()), MODEL_NAME


def _calibrate(
    settings: Settings, theirs: Sequence[str], data: Path, output: Path | None, clarify_text: str | None
) -> int:
    if not data.is_file():
        return _fail(f"--data: there is no file {data}", 2)
    from .calibration import calibrate_model

    options = replace(_engine_options(settings), calibrate=False, use_profile=False)
    engine = _engine(settings.engine, options, theirs, None)
    try:
        written, profile = calibrate_model(engine, data, output, clarify_text, settings.max_num_seqs)
    except (ValueError, OSError) as error:
        return _fail(str(error), 1)
    layers = ", ".join(map(str, profile.layers))
    print(f"profile written to {written}: {profile.tokens} tokens, layers {layers}")
    for note in profile.notes:
        print(f"note: {note}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="entropick",
        description="An OpenAI-compatible server that measures a language model's uncertainty at every token "
        "and lets it decide how the token is picked.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve a model over HTTP",
        description="Serve a model over HTTP, with OpenAI's API; without MODEL the small shipped one.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument("model", nargs="?", default=None, metavar="MODEL", help=_MODEL_HELP)
    _add_options(serve, [name for name in Settings.model_fields if name not in _SPECIAL])
    serve.add_argument(
        "--no-calibrate",
        dest="calibrate",
        action="store_const",
        const=False,
        help="serve a model without a profile under preset seed instead of calibrating it first",
    )
    serve.add_argument(
        "--no-enable-prefix-caching",
        dest="enable_prefix_caching",
        action="store_const",
        const=False,
        help="compute every prompt anew, also where its beginning is in the KV cache",
    )
    serve.add_argument(
        "--no-compile-beside",
        dest="compile_beside",
        action="store_const",
        const=False,
        help="wait at a machine's first start until native code is compiled (up to a minute), instead of "
        "serving slower meanwhile",
    )
    serve.add_argument(
        "--no-recent-prompts",
        dest="recent_prompts",
        action="store_const",
        const=False,
        help="keep no prompt and no stop string for /v1/requests: nothing can then be replayed",
    )
    serve.add_argument(
        "--special-tokens-in-messages",
        action="store_const",
        const=True,
        help="take special tokens that a client writes in a chat message for tokens: every user can then end "
        "a message and begin one of the system",
    )
    serve.add_argument(
        "--batch-invariant",
        action="store_const",
        const=True,
        help="serve only where a request gets the same bits whatever else runs (llama, mistral, qwen2 and "
        "qwen3 in float32 on the CPU); refuse to start elsewhere",
    )
    calibrate = commands.add_parser(
        "calibrate",
        help="measure a model on text and write its profile",
        description="Run text through a model, measure its signals, and write the profile (TOML) that preset "
        "'calibrated' reads.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    calibrate.add_argument("model", metavar="MODEL", help=_MODEL_HELP)
    calibrate.add_argument("--data", type=Path, required=True, metavar="FILE", help="text to measure on")
    calibrate.add_argument(
        "--output", type=Path, metavar="FILE", help="where to write the profile; left out: where serve looks"
    )
    calibrate.add_argument(
        "--clarify-text", metavar="TEXT", help="what CLARIFY inserts; left out: that of the profile in force"
    )
    _add_options(calibrate, _CALIBRATION)
    for command in (serve, calibrate):
        command.add_argument("--config", type=Path, metavar="FILE", help="TOML file with settings")
        command.add_argument(
            "--allow-unvalidated",
            action="store_const",
            const=True,
            help="take an architecture that was not validated",
        )
    commands.add_parser("chat", help="talk to a server in the terminal, with colours", add_help=False)
    commands.add_parser("explain", help="tell why each token of a reply was picked", add_help=False)
    commands.add_parser("replay", help="run a request again by its seed and compare", add_help=False)
    commands.add_parser("eval", help="compare settings on questions with known answers", add_help=False)
    commands.add_parser(
        "inspect", help="look inside a model: a report of its heads, layers and weights", add_help=False
    )
    commands.add_parser("version", help="print the version")
    return parser


def _add_options(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Adds an option for each setting; the settings check its value, as they do for every source."""
    for name in names:
        field = Settings.model_fields[name]
        default: Any = field.get_default()
        shown = "" if default is None or default == () else f" (default: {default})"
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        among = f": {', '.join(choices)}" if choices else ""
        several: dict[str, Any] = {"nargs": "+", "action": "extend"} if name in _SEVERAL else {}
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            metavar="VALUE",
            **several,
            help=f"{field.description}{among}{shown}".replace("%", "%%"),
        )


if __name__ == "__main__":
    sys.exit(main())
