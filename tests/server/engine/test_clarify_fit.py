"""The fit of CLARIFY's opening weights into a profile that is there: nothing else of it changes."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from clarify_fit import main
from entropick_sampler.calibrate import MIN_LABELLED
from entropick_sampler.calibrate_opening import KINDS
from entropick_sampler.profile import Profile
from entropick_server.engine.identity import hash_model

from .test_calibration import asked, lines
from .test_loader import profile

Folder = Callable[[str], Path]


def fitted_on(tmp_path: Path, kind: str) -> Path:
    return lines(
        tmp_path / f"{kind}.jsonl",
        *(asked(f"{kind} {i % 9} of {i}?", kind, f"{kind}{i % 9}") for i in range(MIN_LABELLED)),
    )


def test_nothing_but_clarify_changes(
    model_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_folder("llama")
    before = replace(
        profile((0, 1, 2), hash_model(folder)),
        notes=("cut points", "CLARIFY at the first token, of an older fit"),
        opening_weights={3: 1.0},
    )
    path = tmp_path / "p.toml"
    before.save(path)
    data = [fitted_on(tmp_path, kind) for kind in KINDS]
    main([str(folder), "--profile", str(path), "--data", *map(str, data)])
    made = Profile.load(path)
    assert made.opening_weights != before.opening_weights
    assert len(made.opening_weights) > 1
    digest = sha256(b"".join(file.read_bytes() for file in data)).hexdigest()
    assert made.notes[0] == "cut points"
    assert f"{MIN_LABELLED} ambiguous prompts" in made.notes[1]
    assert made.notes[2].endswith(f"ambiguous.jsonl, look-alike.jsonl, other.jsonl, SHA-256 {digest}")
    assert len(made.notes) == 3
    assert made.notes[2] in capsys.readouterr().out
    cuts = {name: cut for name, cut in made.thresholds.items() if not name.startswith("clarify")}
    assert cuts == {name: before.thresholds[name] for name in cuts}
    of_clarify = {
        "opening_weights": made.opening_weights,
        "clarify_bias": made.clarify_bias,
        "thresholds": made.thresholds,
        "notes": made.notes,
    }
    assert made == replace(before, **of_clarify)


def test_a_profile_of_another_model_is_refused(model_folder: Folder, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    profile((0, 1, 2), "another").save(path)
    with pytest.raises(ValueError, match="another model"):
        main(
            [
                "--profile",
                str(path),
                "--data",
                str(fitted_on(tmp_path, "other")),
                "--",
                str(model_folder("llama")),
            ]
        )
    assert Profile.load(path) == profile((0, 1, 2), "another")
