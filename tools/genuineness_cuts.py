"""Fits the cut points of genuineness anew, and keeps everything else of a profile.

    python tools/genuineness_cuts.py MODEL --profile PROFILE --data FILE

The file is that of a calibration (docs/policy.md says what a line is). Prompts without a reply are answered
by the model, as ``entropick calibrate`` has them answered, so the cut points are those that it would write.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from entropick_sampler.profile import Profile
from entropick_server.calibration.cuts import measure_cuts, replies_of
from entropick_server.calibration.run import IN_FLIGHT, measure, ordinary
from entropick_server.calibration.samples import read_samples
from entropick_server.engine.base import Engine
from entropick_server.engine.embedded.engine import EmbeddedEngine
from entropick_server.engine.types import EngineOptions


async def refitted(engine: Engine, profile: Profile, data: Path) -> Profile:
    """Returns the profile with cut points of genuineness from a calibration file.

    Raises CalibrationDataError for a bad file, ValueError for a profile of another model, EngineError.
    """
    info = engine.info
    if (profile.model_hash, profile.layers) != (engine.model_hash, info.monitored_layers):
        raise ValueError("the profile belongs to another model, or to other layers")
    samples = ordinary(read_samples(data, engine.tokenizer, info.eos_token_ids, info.max_model_len))
    replies = replies_of(samples, await measure(engine, samples, IN_FLIGHT))
    return replace(profile, genuineness=await measure_cuts(engine, replies, IN_FLIGHT))


async def fit_file(model: str, profile: Path, data: Path) -> Profile:
    """Starts an engine, fits the cut points of its model, writes the profile and returns it."""
    engine = EmbeddedEngine(EngineOptions(model, calibrate=False, use_profile=False))
    await engine.start()
    try:
        made = await refitted(engine, Profile.load(profile), data)
    finally:
        await engine.close()
    made.save(profile)
    return made


def main() -> int:
    """Fits the cut points of the model that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    made = asyncio.run(fit_file(args.model, args.profile, args.data))
    print(f"profile {made.id}: {made.genuineness}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
