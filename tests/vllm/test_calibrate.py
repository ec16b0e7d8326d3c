"""``entropick calibrate --engine vllm``: the command measures what the embedded engine measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from entropick_pico import model_path
from entropick_sampler.profile import PROFILE_FILE, Profile
from entropick_sampler.signals import POLICY_SIGNALS
from entropick_server import cli
from entropick_server.engine.identity import hash_model
from entropick_server.engine.profiles import find_profile

pytestmark = pytest.mark.filterwarnings("default")  # of vLLM's and torch's making
ARGUMENTS = {"torch": [], "vllm": ["--", "--distributed-executor-backend", "uni"]}


def test_both_engines_fit_the_same_profile(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On the same texts: quantiles and cut points, the layers, the weights' hash, the text, the notes."""
    texts = Path(model_path()).with_name("calibration.jsonl").read_text().splitlines()[::8]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(texts))
    made = {}
    for engine, arguments in ARGUMENTS.items():
        out = tmp_path / f"{engine}.toml"
        command = ["calibrate", str(model_path()), "--engine", engine, "--data", str(data)]
        command += ["--monitored-layers", "3,0", "--output", str(out), "--clarify-text", "Which?"]
        assert cli.main([*command, *arguments]) == 0, capfd.readouterr().err
        made[engine] = Profile.load(out)
        shown = capfd.readouterr().out
        assert f"profile written to {out}: {made[engine].tokens} tokens, layers 0, 3" in shown
        for note in made[engine].notes:
            assert f"note: {note}" in shown
    ours, theirs = made["torch"], made["vllm"]
    assert set(theirs.quantiles) == {signal.name for signal in POLICY_SIGNALS}
    for name, values in ours.quantiles.items():
        assert theirs.quantiles[name] == pytest.approx(values, abs=1e-3), name
    assert theirs.thresholds == pytest.approx(dict(ours.thresholds), abs=1e-3)
    # enough labels in these texts for a discriminant, which does not read this signal
    read = set(ours.quantiles) - {"attention_to_previous"}
    assert set(theirs.clarify_weights) == set(ours.clarify_weights) == read
    for name in ("layers", "model_hash", "data_hash", "tokens", "clarify_text"):
        assert getattr(theirs, name) == getattr(ours, name), name
    assert theirs.layers == (0, 3)
    assert theirs.tokens > 500
    # serving takes it for these layers
    found = find_profile(
        str(tmp_path / "vllm.toml"), tmp_path, tmp_path, hash_model(Path(model_path())), (0, 3)
    )
    assert found == theirs


def test_what_vllm_refuses_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As ``serve`` tells it, and nothing is written."""
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "one two three"}')
    command = ["calibrate", str(model_path()), "--engine", "vllm", "--data", str(data)]
    command += ["--output", str(tmp_path / PROFILE_FILE)]
    for arguments, message in (
        (["--model", "other"], "name the model before the --"),
        (["--no-such-argument"], "refuses the arguments behind --"),
    ):
        assert cli.main([*command, "--", *arguments]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / PROFILE_FILE).exists()
