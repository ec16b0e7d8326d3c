"""From our options and vLLM's own arguments to a running AsyncLLM."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from safetensors import safe_open

from ..base import ModelLoadError
from ..source import Source
from ..types import EngineOptions, ModelInfo
from .arguments import set_threads, vllm_defaults
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
    "tokenizer": "the model's own is used on both sides",
    "revision": "download the revision and name its folder before the --",
    "tokenizer_revision": "download the revision and name its folder before the --",
    "download_dir": "the model is fetched before vLLM starts; set HF_HUB_CACHE",
}
"""vLLM's arguments that cannot be passed on, with the reason"""


def build_config(options: EngineOptions, source: Source, arguments: Sequence[str]) -> tuple[Any, Any]:
    """Returns vLLM's engine arguments, and the VllmConfig that they make.

    The caller must have passed ``options`` to check_options(). Raises ModelLoadError.
    """
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
    device_type = str(current_platform.device_type)
    parser.set_defaults(**vllm_defaults(options, device_type=device_type))
    set_threads(options.threads, device_type)
    plain = {name: parser.get_default(name) for name in _OURS}
    try:
        parsed = parser.parse_args(list(arguments))
    except SystemExit as error:
        raise ModelLoadError("vLLM refuses the arguments behind --; see above") from error
    for name, why in _OURS.items():
        if getattr(parsed, name, None) != plain[name]:
            raise ModelLoadError(f"--{name.replace('_', '-')} cannot be passed on to vLLM: {why}")
    ours = {"layers": list(source.monitored_layers)}
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
    """Returns a loaded AsyncLLM; blocks for as long as loading takes. Raises ModelLoadError."""
    from vllm.v1.engine.async_llm import AsyncLLM

    try:
        return AsyncLLM.from_vllm_config(
            config, stat_loggers=[logger], enable_log_requests=False, disable_log_stats=True
        )
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        raise ModelLoadError(f"vLLM cannot load {config.model_config.model}: {error}") from error


def describe(options: EngineOptions, source: Source, config: Any) -> ModelInfo:
    """Returns the description of a model that is served under a VllmConfig."""
    return source.info(
        options,
        max_model_len=int(config.model_config.max_model_len),
        parameters=_parameters(source.folder),
        dtype=str(config.model_config.dtype).removeprefix("torch."),
        device=str(config.device_config.device_type),
    )


def _parameters(folder: Path) -> int:
    """Counts the numbers in the safetensors files, by their headers."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    return total
