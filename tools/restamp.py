"""Writes the identity of a model into the profile beside its weights.

``python tools/restamp.py pico/entropick_pico/model`` is for a change of a model's files that its signals do
not depend on, such as another spelling of ``config.json``; ``python tools/restamp.py smollm2`` is for the
shipped profile of a model of the table, as when it was calibrated on a copy of that model. Where the signals
may have changed, calibrate again.
"""

import argparse
from pathlib import Path

from entropick_sampler.profile import PROFILE_FILE
from entropick_server.engine.gguf_files import gguf_identity
from entropick_server.engine.identity import hash_model
from entropick_server.engine.named_models import NAMED_MODELS
from entropick_server.engine.profiles import SHIPPED, restamp


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Writes a model's identity into its profile.")
    parser.add_argument("model", help="folder of the model, with its profile, or a name of the table")
    model = parser.parse_args().model
    if model in NAMED_MODELS:
        path = SHIPPED / f"{model}.toml"
        identity = gguf_identity(NAMED_MODELS[model].file_sha256)
    else:
        path = Path(model) / PROFILE_FILE
        identity = hash_model(Path(model))
    changed = restamp(path, identity)
    print(f"{path}: {'has a new model_hash' if changed else 'was up to date'}")


if __name__ == "__main__":
    main()
