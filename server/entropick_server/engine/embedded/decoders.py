"""Chooses the decoder of a model, and knows whether its bits may depend on the rest of a batch."""

from __future__ import annotations

from transformers import PreTrainedModel

from entropick_kernels import decoder, native_code
from entropick_kernels.attention_stats import Kernels

from ..base import ModelLoadError
from ..types import DecoderChoice, EngineOptions
from . import native_decoder
from .forward import Decoder
from .llama_family import FAMILY, in_family
from .modules_decoder import ModulesDecoder
from .torch_decoder import TorchDecoder


def check_batch_invariant(model: PreTrainedModel, options: EngineOptions) -> None:
    """Refuses, with ModelLoadError, a model whose bits would depend on the rest of a batch.

    Those of the native decoder never do; libraries choose their kernels by the shape of a batch.
    """
    parameter = next(model.parameters())
    dtype, device = str(parameter.dtype).removeprefix("torch."), parameter.device.type
    kind = model.config.model_type
    problem = None
    if not decoder.available():
        problem = "numba is not installed; install it"
    elif kind not in FAMILY:
        problem = f"the architecture is {kind!r}; serve one of {', '.join(sorted(FAMILY))}"
    elif device != "cpu":
        problem = f"the model is on {device}; use --device cpu"
    elif dtype != "float32":
        problem = f"the weights are {dtype}; use --dtype float32"
    elif options.kernels not in ("auto", "numba"):
        problem = f"kernels are {options.kernels!r}; use --kernels auto or numba"
    elif options.decoder != "auto":
        problem = f"the decoder is {options.decoder!r}; leave it at auto"
    elif not native_decoder.serves(model):
        problem = "the model differs from its family in a part that the native decoder does not know"
    if problem is not None:
        raise ModelLoadError(
            f"--batch-invariant needs the native decoder ({', '.join(sorted(FAMILY))}; float32; CPU), but "
            f"{problem}"
        )


def native_in_place_of(decoder: Decoder, model: PreTrainedModel) -> bool:
    """Tells whether the native decoder is to take over from ``decoder`` when its code is compiled."""
    return isinstance(decoder, TorchDecoder) and native_decoder.serves(model)


def choose_decoder(
    model: PreTrainedModel,
    max_len: int,
    choice: DecoderChoice,
    kernels: Kernels | None = None,
) -> Decoder:
    """Picks the fastest decoder that serves a model and that ``choice`` allows.

    ``kernels``: the kernels that attend and measure; None for the fastest, and needed as "numba" or
    None by the native decoder, which has loops of its own, and serves once its code is there."""
    if choice == "auto" and native_code.wanted(kernels) and native_decoder.serves(model):
        return native_decoder.pack_decoder(model, max_len)
    if choice != "modules" and in_family(model):
        return TorchDecoder(model, max_len, kernels)
    return ModulesDecoder(model, kernels)
