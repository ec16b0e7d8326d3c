"""From a folder or a hub id to a model that the engine can run, or a ModelLoadError that says what to do.

Weights are read from safetensors only and a repository's own code is never run.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils.hub import cached_file

from ..base import ModelLoadError
from ..tokenizer import FastTokenizer
from ..types import EngineOptions, GenerationDefaults, ModelInfo
from .modules_decoder import ATTENTION_NAME, register

VALIDATED: Final = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"})
"""model types whose logits and signals are compared with eager transformers in the tests"""
_ROPE: Final = frozenset({"default", "linear", "llama3", "yarn"})
"""rotary embeddings that depend on a token's position alone, not on who else is in the batch"""
_DTYPES: Final = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
_log = logging.getLogger(__name__)
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory with everything that describes it."""

    model: PreTrainedModel
    tokenizer: FastTokenizer
    info: ModelInfo
    folder: Path
    model_hash: str
    kv_heads: int
    head_dim: int
    layers: int


def load_model(options: EngineOptions) -> Loaded:
    """Load what ``options`` names. Raises ModelLoadError."""
    source = options.model
    device = _device(options.device)
    dtype = _dtype(options.dtype, device)
    folder = model_folder(source)
    # a folder for a folder, an id for an id: transformers then fetches what is missing itself
    where = folder if _is_folder(source) else source
    register()
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        if not options.allow_unvalidated:
            check_architecture(config)
        tokenizer = FastTokenizer(AutoTokenizer.from_pretrained(where, trust_remote_code=False))
        made: Any = AutoModelForCausalLM.from_pretrained(
            where,
            config=config,
            dtype=dtype,
            attn_implementation=ATTENTION_NAME,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelLoadError(f"{source} cannot be loaded: {error}") from error
    model, problems = made
    missing = sorted(problems["missing_keys"]) + sorted(str(key) for key in problems["mismatched_keys"])
    if missing:
        raise ModelLoadError(f"{source}: the weights lack {len(missing)} tensors, the first is {missing[0]}")
    try:
        model = model.to(device).eval().requires_grad_(False)
    except RuntimeError as error:
        raise ModelLoadError(f"{source} cannot be moved to {device}: {error}") from error
    return describe(model, tokenizer, options, folder)


def describe(
    model: PreTrainedModel, tokenizer: FastTokenizer, options: EngineOptions, folder: Path
) -> Loaded:
    """Collect what the engine must know of a model in memory. Raises ModelLoadError."""
    config = model.config.get_text_config()
    heads = int(config.num_attention_heads)
    layers = int(config.num_hidden_layers)
    monitored = options.monitored_layers
    if monitored is None:
        monitored = tuple(range(layers))
    wrong = [layer for layer in monitored if not 0 <= layer < layers]
    if wrong or not monitored or len(set(monitored)) < len(monitored):
        raise ModelLoadError(
            f"monitored layers {list(monitored)}: the model has layers 0 to {layers - 1}; name each once"
        )
    longest = int(config.max_position_embeddings)
    if options.max_model_len is not None:
        if options.max_model_len < 2:
            raise ModelLoadError("max_model_len must be at least 2")
        if options.max_model_len > longest:
            _log.warning(
                "max_model_len %d is more than the model was made for: it is %d",
                options.max_model_len,
                longest,
            )
        longest = min(longest, options.max_model_len)
    parameter = next(model.parameters())
    info = ModelInfo(
        name=options.served_model_name
        or (folder.resolve().name if _is_folder(options.model) else options.model),
        source=options.model,
        architecture=str(config.model_type),
        max_model_len=longest,
        vocab_size=int(config.vocab_size),
        eos_token_ids=eos_token_ids(model.generation_config, config),
        monitored_layers=tuple(sorted(monitored)),
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=str(parameter.device),
        defaults=generation_defaults(model.generation_config),
        created=int(time.time()),
    )
    return Loaded(
        model,
        tokenizer,
        info,
        folder,
        model_hash(folder),
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        layers=layers,
    )


def check_architecture(config: PreTrainedConfig) -> None:
    """Raise ModelLoadError for a model whose numbers were never compared with transformers' own."""
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
    """Every kind of rotary embedding in a config: one, or one a kind of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    tables = (
        [rope] if "rope_type" in rope or "type" in rope else [t for t in rope.values() if isinstance(t, dict)]
    )
    return {str(t.get("rope_type", t.get("type", "default"))) for t in tables}


def model_hash(folder: Path) -> str:
    """A digest of the weights: size, first and last MiB, and a MiB every 256 MiB of each safetensors file.

    Reading all of a large model would take longer than loading it.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            for at in sorted({*range(0, size, 256 * _MIB), max(0, size - _MIB)}):
                file.seek(at)
                digest.update(file.read(_MIB))
    return digest.hexdigest()


def _is_folder(source: str) -> bool:
    return Path(source).expanduser().is_dir()


def model_folder(source: str) -> Path:
    """The local folder of a model; a hub id's small files are fetched for it. Raises ModelLoadError."""
    path = Path(source).expanduser()
    if _is_folder(source):
        if not (path / "config.json").is_file():
            raise ModelLoadError(f"{source} has no config.json: it is not a Hugging Face model folder")
        return path
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise ModelLoadError(f"{source}: no such folder")
    try:
        found = cached_file(source, "config.json")
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"{source} is not a local folder, and as a model of the Hugging Face hub it cannot be fetched: "
            f"{error} Check the name and the network, or download the model and give its folder."
        ) from error
    if found is None:
        raise ModelLoadError(f"{source}: the hub has no config.json for it")
    return Path(found).parent


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelLoadError(f"device {name!r}: {error}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError("device 'cuda': this build of torch sees no CUDA device; use --device cpu")
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        # bfloat16 is slower than float32 on CPUs without matrix units
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in _DTYPES:
        raise ModelLoadError(f"dtype {name!r}: use auto or one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def eos_token_ids(generation: GenerationConfig | None, config: PreTrainedConfig) -> tuple[int, ...]:
    """The tokens that end a reply: the generation config's, else the config's."""
    found: Any = getattr(generation, "eos_token_id", None)
    if found is None:
        found = getattr(config, "eos_token_id", None)
    if found is None:
        return ()
    return tuple(int(i) for i in found) if isinstance(found, list | tuple) else (int(found),)


def generation_defaults(generation: GenerationConfig | None) -> GenerationDefaults:
    """What the routes use where a client is silent."""
    if generation is None:
        return GenerationDefaults()
    return GenerationDefaults(
        temperature=generation.temperature,
        top_p=generation.top_p,
        top_k=generation.top_k,
        max_new_tokens=generation.max_new_tokens,
    )
