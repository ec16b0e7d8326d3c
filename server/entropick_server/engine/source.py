"""The source of a model, as both engines read it: folder, configuration, tokenizer, end tokens, identity.

A model is named by a folder in Hugging Face format or by an id of the hub, whose files are fetched first. A
repository's own code is never run, and weights are taken from safetensors files only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedConfig

from .base import ModelLoadError
from .identity import hash_model
from .tokenizer import FastTokenizer
from .types import EngineOptions, GenerationDefaults, ModelInfo

VALIDATED: Final = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"})
"""model types whose logits and signals are compared with eager transformers in the tests"""
_ROPE: Final = frozenset({"default", "linear", "llama3", "yarn"})
"""rotary embeddings that depend on a token's position alone, not on who else is in the batch"""
_SMALL: Final = ("*.json", "*.txt", "*.model", "*.jinja")
"""files of a hub repository that describe the model; without folders, which hold other formats"""
_INDEX: Final = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Source:
    """A model on the disk with everything that is known of it without its weights in memory."""

    folder: Path
    config: PreTrainedConfig
    """the configuration of the language model (of a multimodal model: its text part)"""
    generation: GenerationConfig | None
    tokenizer: FastTokenizer
    model_hash: str
    monitored_layers: tuple[int, ...]
    """the layers whose attention is measured, in ascending order"""

    @property
    def max_position_embeddings(self) -> int:
        """Returns the number of tokens that the model was made for."""
        return int(self.config.max_position_embeddings)

    def info(
        self, options: EngineOptions, *, max_model_len: int, parameters: int, dtype: str, device: str
    ) -> ModelInfo:
        """Describes the model as it is served; the engine alone knows the arguments."""
        folder = is_folder(options.model)
        return ModelInfo(
            name=options.served_model_name or (self.folder.resolve().name if folder else options.model),
            source=options.model,
            architecture=str(self.config.model_type),
            max_model_len=max_model_len,
            vocab_size=int(self.config.vocab_size),
            eos_token_ids=eos_token_ids(self.generation, self.config),
            monitored_layers=self.monitored_layers,
            parameters=parameters,
            dtype=dtype,
            device=device,
            defaults=generation_defaults(self.generation),
            created=int(time.time()),
        )


def read_source(options: EngineOptions, digests: Path | None = None) -> Source:
    """Reads the files of a model except for its weights; the weights of a hub id are fetched as well.

    ``digests`` is the folder that keeps the digests of large files (default: the user's cache). Raises
    ModelLoadError for a model that is not there, not complete, not validated or without weights, and for
    monitored layers that it does not have.
    """
    model = options.model
    folder = model_folder(model)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if not options.allow_unvalidated:
            check_architecture(config)
        tokenizer = FastTokenizer(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
        generation = _generation(folder)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelLoadError(f"{model} cannot be loaded: {error}") from error
    text = config.get_text_config()
    layers = monitored_layers(options.monitored_layers, int(text.num_hidden_layers))
    if not is_folder(model):
        _fetch_weights(model, folder)
    return Source(folder, text, generation, tokenizer, hash_model(folder, digests), layers)


def is_folder(model: str) -> bool:
    """True if a model's name is the path of a local folder."""
    return Path(model).expanduser().is_dir()


def model_folder(model: str) -> Path:
    """Returns the local folder of a model; the small files of a hub id are fetched into it.

    Raises ModelLoadError for a name that is neither a model's folder nor a hub id that can be fetched.
    """
    path = Path(model).expanduser()
    if is_folder(model):
        if not (path / "config.json").is_file():
            raise ModelLoadError(f"{model} has no config.json: it is not a Hugging Face model folder")
        return path
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ModelLoadError(f"{model}: no such folder")
    folder = _fetch(model, None, _SMALL)
    if not (folder / "config.json").is_file():
        raise ModelLoadError(f"{model}: the hub has no config.json for it")
    return folder


def _fetch_weights(model: str, folder: Path) -> None:
    """Fetches the weights of a hub id, of the commit whose small files lie in ``folder``."""
    index = folder / _INDEX
    names = ["model.safetensors"]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelLoadError(f"{model} cannot be loaded: {_INDEX} cannot be read: {error}") from error
    _fetch(model, folder.name, names)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelLoadError(
            f"{model} cannot be loaded: the hub, or its local cache, has no {missing[0]} "
            "(weights are read from safetensors files only)"
        )


def _fetch(model: str, commit: str | None, names: Sequence[str]) -> Path:
    """Returns the snapshot folder of a hub id after the named files were fetched into it."""
    try:
        return Path(
            snapshot_download(model, revision=commit, allow_patterns=list(names), ignore_patterns="*/*")
        )
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"{model} is not a local folder, and as a model of the Hugging Face hub it cannot be fetched: "
            f"{error} Check the name and the network, or download the model and give its folder."
        ) from error


def _generation(folder: Path) -> GenerationConfig | None:
    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:  # a model may have none
        return None


def check_architecture(config: PreTrainedConfig) -> None:
    """Raises ModelLoadError for a model whose numbers were never compared with transformers' own."""
    kind = config.model_type
    problem = None
    if kind not in VALIDATED:
        problem = f"architecture {kind!r} is not validated (validated: {', '.join(sorted(VALIDATED))})"
    elif getattr(config, "quantization_config", None):
        problem = "quantized weights are not validated"
    elif getattr(config, "use_bidirectional_attention", None):
        problem = "bidirectional attention cannot be decoded token by token"
    elif unknown := _rope_types(config) - _ROPE:
        problem = f"rotary embedding {sorted(unknown)[0]!r} is not validated"
    if problem:
        raise ModelLoadError(
            f"{problem}. --allow-unvalidated serves it anyway; its signals may then be wrong."
        )


def _rope_types(config: PreTrainedConfig) -> set[str]:
    """Returns every kind of rotary embedding in a config, which may differ by the kind of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    tables = (
        [rope] if "rope_type" in rope or "type" in rope else [t for t in rope.values() if isinstance(t, dict)]
    )
    return {str(t.get("rope_type", t.get("type", "default"))) for t in tables}


def monitored_layers(chosen: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Checks the layers to monitor against a model of ``count`` layers; None stands for all of them.

    Returns the layers in ascending order. Raises ModelLoadError for a layer that the model does not have and
    for one that is named twice.
    """
    layers = tuple(range(count)) if chosen is None else tuple(sorted(chosen))
    if any(not 0 <= layer < count for layer in layers) or len(set(layers)) < len(layers):
        raise ModelLoadError(
            f"monitored layers {list(layers)}: the model has layers 0 to {count - 1}; name each once"
        )
    return layers


def eos_token_ids(generation: GenerationConfig | None, config: PreTrainedConfig) -> tuple[int, ...]:
    """Returns the tokens that end a reply: the end tokens of the generation config, else of the config."""
    found: Any = getattr(generation, "eos_token_id", None)
    if found is None:
        found = getattr(config, "eos_token_id", None)
    if found is None:
        return ()
    return tuple(int(i) for i in found) if isinstance(found, list | tuple) else (int(found),)


def generation_defaults(generation: GenerationConfig | None) -> GenerationDefaults:
    """Returns the sampling parameters that the routes use where a client names none."""
    if generation is None:
        return GenerationDefaults()
    return GenerationDefaults(
        temperature=generation.temperature,
        top_p=generation.top_p,
        top_k=generation.top_k,
        max_new_tokens=generation.max_new_tokens,
    )
