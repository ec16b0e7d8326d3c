"""The small language model of entropick: its grammar, its recipe and the shipped checkpoint.

The model is a Llama-architecture checkpoint of about one million parameters, trained from scratch on a
synthetic chat grammar whose conditional distributions are known exactly. Importing this package loads no
tensor library.
"""

from pathlib import Path

__all__ = ["calibration_path", "model_path"]

_HERE = Path(__file__).resolve().parent


def model_path() -> Path:
    """Return the folder of the shipped checkpoint (Hugging Face format, with tokenizer and model card)."""
    return _HERE / "model"


def calibration_path() -> Path:
    """Return the shipped calibration conversations (JSON lines, written by ``entropick_pico.data``)."""
    return _HERE / "calibration.jsonl"
