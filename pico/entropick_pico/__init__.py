"""The small language model of entropick: its grammar, its recipe and the shipped checkpoint.

The model is a Llama-architecture checkpoint of about one million parameters, trained from scratch on a
synthetic chat grammar whose conditional distributions are known exactly. Importing this package loads no
tensor library.
"""

from pathlib import Path
from typing import Final

__all__ = ["MODEL_NAME", "calibration_path", "model_path"]

MODEL_NAME: Final = "pico"
"""The id under which the shipped checkpoint is served."""

_HERE = Path(__file__).resolve().parent


def model_path() -> Path:
    """Returns the folder of the shipped checkpoint (Hugging Face format, with tokenizer and model card)."""
    return _HERE / "model"


def calibration_path() -> Path:
    """Returns the shipped calibration conversations (JSON lines, written by ``entropick_pico.data``)."""
    return _HERE / "calibration.jsonl"
