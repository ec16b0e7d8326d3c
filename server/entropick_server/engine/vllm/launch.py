"""From our options and vLLM's own arguments to a running AsyncLLM."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from ..base import ModelLoadError
from ..embedded.loader import check_architecture, eos_token_ids, generation_defaults, model_folder, model_hash
from ..tokenizer import FastTokenizer
from ..types import EngineOptions, ModelInfo
from .names import CONFIG

_PROCESSOR: Final = "entropick_server.engine.vllm.processor:EntropickProcessor"
_EXTENSION: Final = "entropick_server.engine.vllm.worker_extension.WorkerExtension"
_OURS: Final = {
    "model": "name the model before the --",
    "served_model_name": "use --served-model-name before the --",
    "worker_extension_cls": "it is entropick's",
    "speculative_config": "entropick decides token by token",
    "enable_lora": "adapters are not served",
    "enable_batch_sharded_sampling": "entropick draws a step's rows together",
}
"""vLLM's arguments that cannot be passed on"""


@dataclass(frozen=True, slots=True)
class Source:
    """What is served, as far as it is known without vLLM."""

    folder: Path
    config: Any
    generation: GenerationConfig | None
    tokenizer: FastTokenizer
    model_hash: str
    layers: tuple[int, ...]


def read_source(options: EngineOptions) -> Source:
    """Read configuration and tokenizer. Raises ModelLoadError."""
    folder = model_folder(options.model)
    where = folder if Path(options.model).expanduser().is_dir() else options.model
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        if not options.allow_unvalidated:
            check_architecture(config)
        tokenizer = FastTokenizer(AutoTokenizer.from_pretrained(where, trust_remote_code=False))
        try:
            generation = GenerationConfig.from_pretrained(where)
        except OSError:  # a model may have none
            generation = None
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelLoadError(f"{options.model} cannot be loaded: {error}") from error
    text = config.get_text_config()
    count = int(text.num_hidden_layers)
    chosen = options.monitored_layers
    layers = tuple(range(count)) if chosen is None else tuple(sorted(chosen))
    if any(not 0 <= layer < count for layer in layers) or len(set(layers)) < len(layers):
        raise ModelLoadError(
            f"monitored layers {list(layers)}: the model has layers 0 to {count - 1}; name each once"
        )
    return Source(folder, config, generation, tokenizer, model_hash(folder), layers)


def build_config(options: EngineOptions, source: Source, arguments: Sequence[str]) -> tuple[Any, Any]:
    """vLLM's engine arguments, and the VllmConfig that they make. Raises ModelLoadError."""
    # vLLM reports its use to its makers unless told otherwise
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext
        from vllm.utils.argparse_utils import FlexibleArgumentParser
    except ImportError as error:
        raise ModelLoadError(f"vLLM cannot be imported (docs/vllm.md): {error}") from error
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser(prog="entropick serve MODEL --"))
    parser.set_defaults(**_defaults(options, cpu=current_platform.is_cpu()))
    plain = {name: parser.get_default(name) for name in _OURS}
    try:
        parsed = parser.parse_args(list(arguments))
    except SystemExit as error:
        raise ModelLoadError("vLLM refuses the arguments behind --; see above") from error
    for name, why in _OURS.items():
        if getattr(parsed, name, None) != plain[name]:
            raise ModelLoadError(f"--{name.replace('_', '-')} cannot be passed on to vLLM: {why}")
    ours = {"layers": list(source.layers)}
    if options.kernels != "auto":
        ours["kernels"] = options.kernels  # type: ignore[assignment]
    parsed.model = str(source.folder)
    parsed.additional_config = {**(parsed.additional_config or {}), CONFIG: ours}
    parsed.logits_processors = [*(parsed.logits_processors or ()), _PROCESSOR]
    parsed.worker_extension_cls = _EXTENSION
    try:
        engine_args = AsyncEngineArgs.from_cli_args(parsed)
        return engine_args, engine_args.create_engine_config(UsageContext.ENGINE_CONTEXT)
    except (ValueError, TypeError, KeyError, OSError, RuntimeError) as error:
        raise ModelLoadError(f"vLLM cannot serve {options.model} like this: {error}") from error


def start(config: Any, engine_args: Any, logger: Callable[..., Any]) -> Any:
    """A loaded AsyncLLM; blocks for as long as loading takes. Raises ModelLoadError."""
    from vllm.v1.engine.async_llm import AsyncLLM

    try:
        return AsyncLLM.from_vllm_config(
            config, stat_loggers=[logger], enable_log_requests=False, disable_log_stats=True
        )
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        raise ModelLoadError(f"vLLM cannot load {config.model_config.model}: {error}") from error


def describe(options: EngineOptions, source: Source, config: Any) -> ModelInfo:
    """What is served under a VllmConfig."""
    text = source.config.get_text_config()
    folder = source.folder.resolve().name if Path(options.model).is_dir() else options.model
    return ModelInfo(
        name=options.served_model_name or folder,
        source=options.model,
        architecture=str(source.config.model_type),
        max_model_len=int(config.model_config.max_model_len),
        vocab_size=int(text.vocab_size),
        eos_token_ids=eos_token_ids(source.generation, source.config),
        monitored_layers=source.layers,
        parameters=_parameters(source.folder),
        dtype=str(config.model_config.dtype).removeprefix("torch."),
        device=str(config.device_config.device_type),
        defaults=generation_defaults(source.generation),
        created=int(time.time()),
    )


def _parameters(folder: Path) -> int:
    """Numbers in the safetensors files, from their headers."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    return total


def _defaults(options: EngineOptions, *, cpu: bool) -> dict[str, Any]:
    """Our settings as defaults of vLLM's arguments, which win where they are given."""
    chosen: dict[str, Any] = {
        "max_num_seqs": options.max_num_seqs,
        "enable_prefix_caching": options.enable_prefix_caching,
    }
    if options.max_model_len is not None:
        chosen["max_model_len"] = options.max_model_len
    if options.dtype != "auto":
        chosen["dtype"] = options.dtype
    elif cpu:
        chosen["dtype"] = "float32"
    if cpu:
        chosen["kv_cache_memory_bytes"] = options.kv_cache_bytes
        # compiling a small model costs more than it saves here
        chosen["enforce_eager"] = True
    return chosen
