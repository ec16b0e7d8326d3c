"""Fits CLARIFY's opening weights anew from labelled prompts, and keeps everything else of a profile.

    python tools/clarify_fit.py smollm2 --profile PROFILE --data FILE [FILE ...]

Measures the first-token distribution of every labelled prompt in the files (docs/policy.md says what a line
is), writes the weights, the cut and CLARIFY's corner into the profile, and notes the hash of the files there.
Quantiles and all other cut points stay as they are, so that nothing but CLARIFY decides otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from entropick_sampler.calibrate_opening import with_opening
from entropick_sampler.profile import Profile
from entropick_server.calibration.run import IN_FLIGHT, measure_openings
from entropick_server.calibration.samples import read_samples
from entropick_server.engine.base import Engine
from entropick_server.engine.embedded.engine import EmbeddedEngine
from entropick_server.engine.types import EngineOptions


async def refitted(engine: Engine, profile: Profile, files: Sequence[Path]) -> Profile:
    """Returns the profile with opening weights from the labelled prompts of some files.

    Raises CalibrationDataError for a bad file, ValueError for a profile of another model, EngineError.
    """
    if profile.model_hash != engine.model_hash:
        raise ValueError("the profile belongs to another model")
    info = engine.info
    read = [read_samples(path, engine.tokenizer, info.eos_token_ids, info.max_model_len) for path in files]
    labelled = [sample for samples in read for sample in samples if sample.kind is not None]
    made = with_opening(profile, await measure_openings(engine, labelled, IN_FLIGHT))
    return replace(made, notes=(*made.notes, data_note(files)))


def data_note(files: Sequence[Path]) -> str:
    """Returns the note of a profile that names the files of labelled prompts and their hash."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return f"CLARIFY at the first token, fitted on {', '.join(path.name for path in files)}, SHA-256 {digest}"


async def fit_file(model: str, profile: Path, files: Sequence[Path]) -> Profile:
    """Starts an engine, fits the opening weights of its model, writes the profile and returns it."""
    engine = EmbeddedEngine(EngineOptions(model, calibrate=False, use_profile=False))
    await engine.start()
    try:
        made = await refitted(engine, Profile.load(profile), files)
    finally:
        await engine.close()
    made.save(profile)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Fits the profile that the command line names, and prints its notes."""
    parser = argparse.ArgumentParser(description="Fit CLARIFY's opening weights into a profile.")
    parser.add_argument("model", help="what entropick serve takes")
    parser.add_argument("--profile", type=Path, required=True, help="profile that is read and written")
    parser.add_argument("--data", type=Path, required=True, nargs="+", metavar="FILE")
    args = parser.parse_args(argv)
    for note in asyncio.run(fit_file(args.model, args.profile, args.data)).notes:
        sys.stdout.write(f"note: {note}\n")


if __name__ == "__main__":
    main()
