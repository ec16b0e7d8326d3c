"""The source of a model, as both engines read it: folder, configuration, tokenizer, end tokens, identity.

A model is named by a folder in Hugging Face format, by a GGUF file, by a name of the table
(``named_models``), or by an id of the hub; the latter two are fetched first. A GGUF file is converted into a
folder. A repository's own code is never run, and weights are taken from safetensors and GGUF files only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download
from transformers import GenerationConfig, PreTrainedConfig

from .base import ModelLoadError
from .fetch import fetched_file
from .gguf_files import converted_folder, gguf_identity
from .identity import default_digests, file_digest, hash_model
from .inspected import inspected_layers
from .model_files import read_config, read_generation, read_tokenizer, reading
from .named_models import NAMED_MODELS
from .templates.renderer import TemplateRenderer
from .tokenizer import FastTokenizer, read_chat_template
from .types import EngineOptions, GenerationDefaults, ModelInfo
from .user_cache import user_cache

VALIDATED: Final = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"})
"""model types whose logits and signals are compared with eager transformers in the tests"""
_ROPE: Final = frozenset({"default", "linear", "llama3", "yarn"})
"""rotary embeddings that depend on a token's position alone, not on who else is in the batch"""
_SMALL: Final = ("*.json", "*.txt", "*.model", "*.jinja")
"""files of a hub repository that describe the model; without folders, which hold other formats"""
_INDEX: Final = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Location:
    """The place of a model on the disk, with its name for clients."""

    folder: Path
    name: str
    """the model's id for clients, where the server names no other"""
    identity: str | None = None
    """the model's identity, where it is known without its files in the folder being read"""
    on_hub: bool = False
    """true for a hub id, whose weights are fetched after its description was read"""
    gguf: Path | None = None
    """the GGUF file that the folder was made of, where it was made of one"""


@dataclass(frozen=True, slots=True)
class Source:
    """A model on the disk with everything that is known of it without its weights in memory."""

    folder: Path
    name: str
    """the model's id for clients, where the server names no other"""
    config: PreTrainedConfig
    """the configuration of the language model (of a multimodal model: its text part)"""
    generation: GenerationConfig | None
    tokenizer: FastTokenizer
    model_hash: str
    monitored_layers: tuple[int, ...]
    """the layers whose attention is measured, in ascending order"""
    gguf: Path | None = None
    """the GGUF file that the folder was made of, where it was made of one"""

    @property
    def max_position_embeddings(self) -> int:
        """Returns the number of tokens that the model was made for, extended by rope scaling."""
        return context_of(self.config)

    def info(
        self, options: EngineOptions, *, max_model_len: int, parameters: int, dtype: str, device: str
    ) -> ModelInfo:
        """Describes the model as it is served; the engine alone knows the arguments."""
        return ModelInfo(
            name=options.served_model_name or self.name,
            source=options.model,
            architecture=str(self.config.model_type),
            max_model_len=max_model_len,
            vocab_size=int(self.config.vocab_size),
            eos_token_ids=eos_token_ids(self.generation, self.config, self.tokenizer.eos_token_id),
            monitored_layers=self.monitored_layers,
            parameters=parameters,
            dtype=dtype,
            device=device,
            defaults=generation_defaults(self.generation),
            created=int(time.time()),
        )


def read_source(options: EngineOptions, digests: Path | None = None) -> Source:
    """Reads the files of a model except for its weights; models of the hub and of the table are fetched.

    ``digests`` is the folder that keeps the digests of large files (default: the user's cache). Raises
    ModelLoadError for a model that is not there, not complete, not validated or without weights, and for
    monitored layers that it does not have.
    """
    model = options.model
    location = locate(model, digests)
    folder = location.folder
    config = read_config(model, folder)
    if not options.allow_unvalidated:
        check_architecture(config)
    template = None if options.chat_template is None else read_chat_template(options.chat_template)
    generation = read_generation(model, folder)
    read = read_tokenizer(model, folder, template)
    with reading(model):
        tokenizer = FastTokenizer(read, template, TemplateRenderer(options.chat_template_seconds))
        # the chat template is asked here, where it holds nothing up
        _ = tokenizer.reply_format
        text = config.get_text_config()
        eos_token_ids(generation, text, tokenizer.eos_token_id)
    count, asked = int(text.num_hidden_layers), options.monitored_layers
    # layers that cannot be are refused before anything large is fetched
    layers = () if isinstance(asked, float) else monitored_layers(asked, count)
    if location.on_hub:
        _fetch_weights(model, folder)
    identity = location.identity or hash_model(folder, digests)
    if isinstance(asked, float):
        layers = inspected_layers(model, folder, identity, count, asked)
    return Source(folder, location.name, text, generation, tokenizer, identity, layers, location.gguf)


def locate(model: str, digests: Path | None = None) -> Location:
    """Finds a model by its name: an existing folder or file, else a name of the table, else a hub id.

    A GGUF file is converted, a model of the table is fetched and converted, each once; of a hub id the small
    files are fetched. ``digests`` is the folder that keeps the digests of large files (default: the user's
    cache).

    Raises ModelLoadError for a name that is none of these, and for a model that cannot be fetched or
    converted.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelLoadError(f"{model} has no config.json: it is not a Hugging Face model folder")
        return Location(path, path.resolve().name)
    if path.is_file():
        return _converted(path, path.stem, _sha256(path, digests))
    if known := NAMED_MODELS.get(model):
        file = fetched_file(known, user_cache())
        sha256 = _sha256(file, digests)
        if sha256 != known.file_sha256:
            raise ModelLoadError(
                f"{file} has changed since {model} was fetched: remove {file.parent} and start again"
            )
        return _converted(file, known.name, sha256)
    if model.startswith((".", "/", "~")) or model.count("/") > 1 or path.suffix.lower() == ".gguf":
        raise ModelLoadError(f"{model}: no such folder or file")
    folder = _fetch(model, None, _SMALL)
    if not (folder / "config.json").is_file():
        raise ModelLoadError(f"{model}: the hub has no config.json for it")
    return Location(folder, model, on_hub=True)


def _sha256(path: Path, digests: Path | None) -> str:
    try:
        return file_digest(path, digests or default_digests())
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error}") from error


def _converted(file: Path, name: str, sha256: str) -> Location:
    """Returns the place of a GGUF file's conversion, which is made where the cache has none."""
    folder = converted_folder(file, sha256, user_cache())
    return Location(folder, name, gguf_identity(sha256), gguf=file)


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
            f"{model} is no local folder or file and no name of the table ({', '.join(NAMED_MODELS)}), and "
            f"as a model of the Hugging Face hub it cannot be fetched: {error} Check the name and the "
            "network, or download the model and give its folder."
        ) from error


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


def context_of(config: PreTrainedConfig) -> int:
    """Returns the tokens of a model's context: its positions, or more where rope scaling extends them.

    Linear scaling and YaRN by a factor stretch the positions that the model was trained on: those that the
    scaling names, else ``max_position_embeddings``. Gemma 3 counts the stretch in the latter already, and so
    may others that name the former.
    """
    positions = int(config.max_position_embeddings)
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", rope.get("type"))
    if kind not in ("linear", "yarn") or "gemma3" in str(config.model_type):
        return positions
    trained = int(rope.get("original_max_position_embeddings") or positions)
    return max(positions, int(trained * float(rope.get("factor") or 1.0)))


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


def eos_token_ids(
    generation: GenerationConfig | None, config: PreTrainedConfig, of_tokenizer: int | None = None
) -> tuple[int, ...]:
    """Returns the tokens that end a reply: all that the generation config, the config or the tokenizer names.

    Chat models name the end of a turn in one of them alone, now here, now there. Raises ValueError for what
    is no token id.
    """
    found: list[int] = []
    named = (getattr(generation, "eos_token_id", None), getattr(config, "eos_token_id", None), of_tokenizer)
    for ids in named:
        found += ids if isinstance(ids, list | tuple) else () if ids is None else (ids,)
    if wrong := [i for i in found if not isinstance(i, int) or isinstance(i, bool)]:
        raise ValueError(f"eos_token_id: {str(wrong[0])[:40]!r} is no token id")
    return tuple(i for i in dict.fromkeys(found) if 0 <= i < int(config.vocab_size))


def generation_defaults(generation: GenerationConfig | None) -> GenerationDefaults:
    """Returns the sampling parameters that the routes use where a client names none.

    They hold under every policy but ``entropix``, whose preset has numbers of its own.
    """
    if generation is None:
        return GenerationDefaults()
    return GenerationDefaults(
        temperature=generation.temperature,
        top_p=generation.top_p,
        top_k=generation.top_k,
        max_new_tokens=generation.max_new_tokens,
        min_p=generation.min_p,
        repetition_penalty=generation.repetition_penalty,
    )
