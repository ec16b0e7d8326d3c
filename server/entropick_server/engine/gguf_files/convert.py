"""Converts a GGUF file, once, into a folder in Hugging Face format in the user's cache."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from safetensors.torch import save_file
from tqdm import tqdm

from ..user_cache import check_room, make_folder
from .config import model_config
from .header import read_header
from .tensors import Planned, load, plan
from .tokenizer import build_tokenizer, generation_config

CONVERTER: Final = 1
"""the version of what conversion makes of a file; a change of its output needs the next number"""
_SHARD: Final = 4 << 30
"""bytes of the largest file of weights, but for a larger tensor: so much is in memory at a time"""
_SPARE: Final = 64 << 20
"""bytes of room that are asked for beside the weights: tokenizer, configuration and the disk's own books"""
_log = logging.getLogger(__name__)


def gguf_identity(sha256: str) -> str:
    """Returns the identity of the model in a GGUF file with this SHA-256, the same on every machine.

    The digest covers the file's bytes and the version of the conversion, which is everything that the served
    model is made of.
    """
    return hashlib.sha256(f"gguf\0{CONVERTER}\0{sha256}\n".encode()).hexdigest()


def converted_folder(path: Path, sha256: str, cache: Path, shard: int = _SHARD) -> Path:
    """Returns the folder that a GGUF file was converted into; it is made where the cache has none.

    ``sha256`` is the digest of the file, ``cache`` entropick's folder in the user's cache. Raises
    ModelLoadError for a file that cannot be converted, with the reason, and for a full disk.
    """
    place = cache / "converted" / gguf_identity(sha256)[:24]
    return make_folder(place, lambda part: _convert(path, part, place, shard))


def _convert(path: Path, part: Path, place: Path, shard: int) -> None:
    file = read_header(path)
    config = model_config(file)
    tokenizer = build_tokenizer(file)
    if len(tokenizer) > config.vocab_size:
        raise file.error(f"it has {len(tokenizer)} tokens, its embedding {config.vocab_size} rows")
    planned = plan(file, config)
    total = sum(tensor.size for tensor in planned)
    check_room(part, total + _SPARE, f"converting {path.name}")
    _log.info("converting %s once, %.0f MB, into %s", path, total / 1e6, place)
    config.dtype = max(planned, key=lambda tensor: tensor.size).dtype
    config.save_pretrained(part)
    tokenizer.save_pretrained(part)
    generation_config(file).save_pretrained(part)
    _write_weights(planned, part, shard, f"converting {path.name}")


def _write_weights(planned: list[Planned], folder: Path, shard: int, title: str) -> None:
    """Writes the tensors as one safetensors file, or as several with their index."""
    shards = list(_shards(planned, shard))
    places: dict[str, str] = {}
    total = sum(tensor.size for tensor in planned)
    with tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=None) as bar:
        for number, tensors in enumerate(shards, 1):
            name = (
                f"model-{number:05}-of-{len(shards):05}.safetensors"
                if len(shards) > 1
                else "model.safetensors"
            )
            loaded = {}
            for tensor in tensors:
                loaded[tensor.name] = load(tensor)
                places[tensor.name] = name
                bar.update(tensor.size)
            save_file(loaded, folder / name, metadata={"format": "pt"})
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def _shards(planned: list[Planned], largest: int) -> Iterator[list[Planned]]:
    """Cuts the list of tensors into runs of at most ``largest`` bytes, or of one larger tensor."""
    run: list[Planned] = []
    size = 0
    for tensor in planned:
        if run and size + tensor.size > largest:
            yield run
            run, size = [], 0
        run.append(tensor)
        size += tensor.size
    if run:
        yield run
