"""Writes the identity of a model into the profile beside its weights.

``python tools/restamp.py pico/entropick_pico/model`` is for a change of a model's files that its signals do
not depend on, such as another spelling of ``config.json``. Where the signals may have changed, calibrate
again.
"""

import argparse
from pathlib import Path

from entropick_sampler.profile import PROFILE_FILE
from entropick_server.engine.identity import hash_model
from entropick_server.engine.profiles import restamp


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Writes a model's identity into its profile.")
    parser.add_argument("folder", type=Path, help="folder of the model, with its profile")
    folder = parser.parse_args().folder
    path = folder / PROFILE_FILE
    changed = restamp(path, hash_model(folder))
    print(f"{path}: {'has a new model_hash' if changed else 'was up to date'}")


if __name__ == "__main__":
    main()
