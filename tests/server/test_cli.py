"""The command line: its help, its errors, and that it hands on what it is given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from entropick_sampler.profile import Profile
from entropick_server import calibration, cli
from entropick_server.settings import Settings


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for the engines, the server and calibration; collects what they are given."""
    seen: list[Any] = []
    engine = ModuleType("torch_engine")
    engine.EmbeddedEngine = lambda options, calibrator: seen.append(options) or "engine"  # type: ignore[attr-defined]
    theirs = ModuleType("engine")
    theirs.VllmEngine = lambda options, arguments, calibrator: (  # type: ignore[attr-defined]
        seen.append((options, list(arguments), calibrator)) or "vllm"
    )
    monkeypatch.setitem(sys.modules, "entropick_server.engine.vllm.engine", theirs)

    def calibrate(*given: Any) -> tuple[Path, Profile]:
        seen.append(given)
        return Path("out.toml"), Profile("m", "d", (0, 3), "2026-01-01", 700, {}, {}, notes=("few labels",))

    monkeypatch.setattr(calibration, "calibrate_model", calibrate)
    serving = ModuleType("serve")
    serving.serve = lambda engine, settings: seen.append(settings)  # type: ignore[attr-defined]
    serving.DrainError = type("DrainError", (RuntimeError,), {})  # type: ignore[attr-defined]
    pico = ModuleType("entropick_pico")
    pico.model_path = lambda: Path("/shipped")  # type: ignore[attr-defined]
    pico.MODEL_NAME = "small"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "entropick_server.engine.embedded.engine", engine)
    monkeypatch.setitem(sys.modules, "entropick_server.serve", serving)
    monkeypatch.setitem(sys.modules, "entropick_pico", pico)
    return seen


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("command", ["serve", "calibrate"])
def test_help_names_every_setting(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    assert "--config" in text
    if command == "serve":
        for name in Settings.model_fields:
            switches = {"calibrate", "compile_beside", "enable_prefix_caching", "recent_prompts"}
            option = f"--{'no-' if name in switches else ''}{name.replace('_', '-')}"
            option = "MODEL" if name == "model" else option
            assert option in text


def test_help_shows_choices_and_units(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["serve", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for shown in (
        "auto, float32, bfloat16, float16",
        "entropix, fixed, edt",
        "calibrated, seed",
        "none, summary, tokens, full",
        "critical, error, warning, info, debug",
        "bytes of memory for the KV cache",
        "seconds that running requests have after SIGTERM",
        "Hugging Face format, a GGUF file, a name that is fetched once and kept (smollm2), or a hub id",
    ):
        assert shown in text


def test_serve_the_shipped_model(built: list[Any]) -> None:
    assert cli.main(["serve"]) == 0
    assert (built[0].model, built[0].served_model_name) == ("/shipped", "small")
    assert built[1].port == 8000


@pytest.mark.parametrize("variable", ["ENTROPICK_API_KEY", "entropick_api_key"])
def test_the_key_is_the_servers_alone(
    variable: str, built: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process that the server starts inherits it: not vLLM's, not pip, not a chat template's."""
    monkeypatch.setenv(variable, "secret-5f1c")
    seen: list[dict[str, str]] = []
    serving = sys.modules["entropick_server.serve"]
    keep = serving.serve  # type: ignore[attr-defined]
    serving.serve = lambda *given: seen.append(dict(os.environ)) or keep(*given)  # type: ignore[attr-defined]
    assert cli.main(["serve"]) == 0
    assert built[1].api_key.get_secret_value() == "secret-5f1c"
    assert "secret-5f1c" not in seen[0].values()


def test_serve_with_options(built: list[Any]) -> None:
    args = [
        "serve",
        "folder",
        "--port",
        "0",
        "--max-model-len",
        "64",
        "--no-calibrate",
        "--no-enable-prefix-caching",
        "--allow-unvalidated",
        "--batch-invariant",
    ]
    assert cli.main([*args, "--api-key", "k", "--policy", "fixed"]) == 0
    options, settings = built
    assert (options.model, options.max_model_len) == ("folder", 64)
    assert (options.calibrate, options.allow_unvalidated) == (False, True)
    assert not options.enable_prefix_caching
    assert options.batch_invariant
    assert (settings.port, settings.policy) == (0, "fixed")


@pytest.mark.parametrize(
    "args", [["--port", "x"], ["--policy", "best"], ["--config", "/does/not/exist.toml"]]
)
def test_bad_options_are_exit_code_2(
    built: list[Any], args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", *args]) == 2
    assert "entropick: error:" in capsys.readouterr().err


def test_a_model_that_cannot_be_loaded_is_exit_code_1(
    built: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    sys.modules["entropick_server.serve"].serve = lambda *_: OSError("no weights")  # type: ignore[attr-defined]
    assert cli.main(["serve", "folder"]) == 1
    assert "no weights" in capsys.readouterr().err


def test_calibrate_needs_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["calibrate", "folder", "--data", str(tmp_path / "none.txt")]) == 2
    assert "--data" in capsys.readouterr().err


def test_calibrate_on_the_embedded_engine(
    built: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The engine is built without a profile; what was found out is printed."""
    data = tmp_path / "data.jsonl"
    data.touch()
    args = ["calibrate", "folder", "--data", str(data), "--clarify-text", "Which?", "--output", "o.toml"]
    assert cli.main([*args, "--monitored-layers", "0,3"]) == 0
    options, given = built
    assert (options.model, options.monitored_layers) == ("folder", (0, 3))
    assert not options.calibrate
    assert not options.use_profile
    assert given == ("engine", data, Path("o.toml"), "Which?", 16)
    shown = capsys.readouterr().out
    assert "profile written to out.toml: 700 tokens, layers 0, 3" in shown
    assert "note: few labels" in shown


@pytest.mark.parametrize("command", ["serve", "calibrate"])
def test_vllms_own_arguments_stand_behind_two_dashes(
    command: str, built: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda _: object())
    data = tmp_path / "data.jsonl"
    data.touch()
    args = [command, "folder", "--engine", "vllm", "--monitored-layers", "3,0"]
    args += ["--data", str(data)] if command == "calibrate" else []
    assert cli.main([*args, "--", "--max-num-seqs", "4"]) == 0
    options, arguments, calibrator = built[0]
    assert (options.model, options.monitored_layers) == ("folder", (3, 0))
    assert arguments == ["--max-num-seqs", "4"]
    # serving may have to calibrate first; calibrating never serves
    assert (calibrator is None) == (command == "calibrate")
    assert options.use_profile == (command == "serve")
    if command == "calibrate":
        assert built[1] == ("vllm", data, None, None, 16)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["serve", "folder", "--", "--port", "1"], 2, "--engine vllm"),
        (["calibrate", "folder", "--data", "x", "--", "--port", "1"], 2, "--engine vllm"),
        (["version", "--", "--port", "1"], 2, "--engine vllm"),
        (["serve", "folder", "--engine", "vllm"], 1, "pip install 'entropick[vllm]'"),
        (["calibrate", "folder", "--data", "x", "--engine", "vllm"], 1, "pip install 'entropick[vllm]'"),
        (["calibrate", "folder", "--data", "x", "--engine", "other"], 2, "engine"),
        (["calibrate", "folder", "--data", "x", "--monitored-layers", "all"], 2, "monitored_layers"),
        (["serve", "folder", "--engine", "other"], 2, "engine"),
        (["serve", "folder", "--monitored-layers", "0-3"], 2, "monitored_layers"),
    ],
)
def test_an_engine_that_cannot_be_had_is_told(
    built: list[Any],
    args: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda _: None)
    assert cli.main(args) == code
    assert message in capsys.readouterr().err
    assert not built


def test_the_command_line_starts_without_torch() -> None:
    """Its import takes seconds, which help, version and chat need not wait for."""
    code = (
        "import sys, entropick_server.cli, entropick_server.terminal.command\n"
        "print(sorted({'torch', 'numba', 'transformers'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize("option", ["--enable-lora", "--lora-modules", "--lora-adapters"])
def test_adapters_are_refused_by_name(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "folder", option, "x=y"]) == 2
    assert f"{option}: adapters (LoRA) are not served" in capsys.readouterr().err


def test_several_ids(built: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "folder", "--served-model-name", "a", "b", "--port", "0"]) == 0
    options, settings = built
    assert (options.model, options.served_model_name) == ("folder", "a")
    assert settings.served_model_name == ("a", "b")
    # argparse would take the folder for an id, and the shipped model would be served under it
    assert cli.main(["serve", "--served-model-name", "a", "folder"]) == 2
    assert "MODEL must stand before --served-model-name" in capsys.readouterr().err


def test_several_ids_of_the_shipped_model(built: list[Any]) -> None:
    assert (
        cli.main(["serve", "--served-model-name", "a,b", "--allowed-origins", "https://a.b", "http://c"]) == 0
    )
    assert (built[0].model, built[0].served_model_name) == ("/shipped", "a")
    assert built[1].served_model_name == ("a", "b")
    assert built[1].allowed_origins == ("https://a.b", "http://c")
