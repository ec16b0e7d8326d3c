"""The header of a GGUF file: its keys and its table of tensors, checked before anything is made of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gguf import GGMLQuantizationType, GGUFEndian, GGUFReader, ReaderTensor

from ..base import ModelLoadError

ARCHITECTURES: Final = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""GGUF architecture -> model type; the logits of each are compared with a float64 pass in the tests"""
READ: Final = (
    "F32",
    "F16",
    "BF16",
    "Q8_0",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
)
"""the types of tensors that are read"""
_MAGIC: Final = b"GGUF"


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A GGUF file whose header has been read and checked; its tensors stay on the disk until used."""

    path: Path
    architecture: str
    keys: dict[str, Any]
    """every key of the file with its value; texts and lists as Python has them"""
    tensors: dict[str, ReaderTensor]

    def hyper(self, name: str) -> Any:
        """Returns the architecture's value ``name``. Raises ModelLoadError for a file without it."""
        key = f"{self.architecture}.{name}"
        if key not in self.keys:
            raise self.error(f"it does not say {key}")
        return self.keys[key]

    def error(self, why: str) -> ModelLoadError:
        """Makes an error that names the file."""
        return ModelLoadError(f"{self.path} cannot be loaded: {why}")


def read_header(path: Path) -> GgufFile:
    """Reads the header of a GGUF file.

    Raises ModelLoadError, naming the file and the reason, for a file that is not a whole GGUF file, and for
    an architecture or a type of tensors that is not known here.
    """
    reader = _open(path)
    keys: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
    architecture = keys.get("general.architecture")
    file = GgufFile(path, str(architecture), keys, {tensor.name: tensor for tensor in reader.tensors})
    if reader.endianess != GGUFEndian.LITTLE:
        raise file.error("its byte order is big-endian; only little-endian files are read")
    if keys.get("split.count", 1) > 1:
        raise file.error(
            f"it is part {keys.get('split.no', 0) + 1} of {keys['split.count']} of a model; join them first "
            "(llama.cpp: llama-gguf-split --merge FIRST_PART WHOLE)"
        )
    if (kind := keys.get("general.type", "model")) != "model":
        raise file.error(f"it holds no language model but {kind!r}")
    if architecture not in ARCHITECTURES:
        raise file.error(
            f"architecture {architecture!r} is not validated for GGUF files (validated: "
            f"{', '.join(ARCHITECTURES)}); a folder in Hugging Face format may be served"
        )
    unread = sorted({t.tensor_type.name for t in reader.tensors} - set(READ))
    if unread:
        raise file.error(f"quantisation type {unread[0]} is not read (read: {', '.join(READ)})")
    return file


def _open(path: Path) -> GGUFReader:
    try:
        with path.open("rb") as file:
            begins = file.read(len(_MAGIC))
        if begins != _MAGIC:
            raise ModelLoadError(f"{path} is not a GGUF file: it begins with {begins!r}, not with {_MAGIC!r}")
        return GGUFReader(path)
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error}") from error
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        if GGMLQuantizationType.__name__ in str(error):
            number = "".join(re.findall(r"\d+", str(error).split()[0])[-1:])
            raise ModelLoadError(
                f"{path} cannot be loaded: quantisation type {number} is unknown (read: {', '.join(READ)})"
            ) from error
        raise ModelLoadError(
            f"{path} cannot be loaded: the GGUF file is cut off or damaged ({error})"
        ) from error
