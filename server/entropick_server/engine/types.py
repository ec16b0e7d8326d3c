"""The vocabulary between the HTTP side and an engine. Each type says who fills it and who reads it.

Nothing here imports a framework: the same types serve the embedded engine and the vLLM engine.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from entropick_sampler.genuineness.counts import HeadCounts
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.signals import SIGNAL_NAMES
from entropick_sampler.strategy import Strategy

if TYPE_CHECKING:
    # its module brings torch, which the command line does without
    from entropick_sampler.most_probable import ProbableToken

    from .grammar.compiler import CompiledGrammar

_SURPRISAL: Final = SIGNAL_NAMES.index("surprisal")


class FinishReason(enum.StrEnum):
    """A reason why a sequence ended; OpenAI's clients know STOP and LENGTH."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class KeptToken:
    """A token of an earlier reply that a request keeps. ``surprisal``: bits, None where not known.

    ``clarifies``: a clarifying text begins with it. ``lost``: tokens of branches that lost beside it.
    """

    token_id: int
    surprisal: float | None = None
    clarifies: bool = False
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Resumed:
    """The beginning of a reply that a request goes on behind: its kept tokens and the memory of them.

    ``pending``: tokens to emit next instead of drawing, of which the request named the first ``named``; the
    others are the rest of a clarifying text. ``clarify_used``, ``since_clarify``, ``known`` (tokens whose
    surprisal is known), ``surprisal`` (its sum, bits), ``unfinished`` and ``newest`` as a reply remembers
    them; ``spent``: tokens of branches that lost.
    """

    tokens: tuple[KeptToken, ...] = ()
    pending: tuple[int, ...] = ()
    named: int = 0
    clarify_used: int = 0
    since_clarify: int | None = None
    known: int = 0
    surprisal: float = 0.0
    unfinished: bytes = b""
    newest: tuple[int, ...] = ()
    spent: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to continue as one choice. Filled by the routes, read by the engine.

    ``sampling.max_tokens`` and ``sampling.seed`` are resolved (never "unset") here; 0 tokens are asked for
    where the prompt's figures alone are wanted; ``stop_token_ids``
    includes the end-of-sequence ids unless ``ignore_eos``. Stop STRINGS are the detokenizer's business: when
    a string matches, the server closes the stream, which cancels the request.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    policy: PolicyConfig
    arrival: float
    """time.monotonic() when the HTTP side accepted the request"""
    choice: int = 0
    """its number among the choices of one prompt, 0 to 65535: each draws with numbers of its own"""
    group: str | None = None
    """a name that the choices of one prompt share, so that the prompt is computed once; None: one choice"""
    replayed_token_ids: tuple[int, ...] = ()
    """teacher forcing: emit these tokens instead of drawing, measured as usual (calibration, evaluation)"""
    resumed: Resumed | None = None
    """the beginning of the reply, whose tokens are the last of ``prompt_token_ids``: the draws behind them
    keep their positions, and ``sampling.max_tokens`` counts them"""
    grammar: CompiledGrammar | None = None
    """the grammar that the reply follows, whatever the model thinks of it; None: any text"""
    answer_id: str | None = None
    """the HTTP answer that it is part of: all requests of an answer take turns as one; None: it is alone"""
    share: str = ""
    """the name under which its work counts where clients take turns: that of its key, empty without keys"""

    @property
    def kept(self) -> int:
        """Counts the tokens of the reply that are there already."""
        return 0 if self.resumed is None else len(self.resumed.tokens)

    @property
    def answer(self) -> str:
        """Returns the name under which the request takes turns with others of its share."""
        return self.answer_id or self.group or self.request_id

    @property
    def counts_prompt(self) -> bool:
        """Tells whether the prompt counts with this request: once for all choices that are made of it."""
        return not self.choice or self.resumed is not None


@dataclass(frozen=True, slots=True)
class TokenParameters:
    """The parameters that a token was drawn with, after the policy."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    n_candidates: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that was drawn as a candidate for a position, with the guide's score (nats)."""

    token_id: int
    logprob: float
    score: float


@dataclass(frozen=True, slots=True)
class TokenDetail:
    """The additions of telemetry ``full`` to a token: figures by monitored layer and head, and candidates."""

    layers: tuple[int, ...]
    attention_entropy: tuple[tuple[float, ...], ...]
    """[layers][heads], bits"""
    interaction_strength: tuple[tuple[float, ...], ...]
    """[layers][heads]"""
    attention_to_previous: tuple[tuple[float | None, ...], ...]
    """[layers][heads]; None where the query saw no previous key"""
    per_layer: Mapping[str, tuple[float | None, ...]]
    """signal name -> [layers]"""
    candidates: tuple[Candidate, ...]
    genuineness: tuple[tuple[float | None, ...], ...] | None = None
    """[layers][heads], G of the window in the form that the request asked for; None where nothing watches"""
    token_cost: tuple[tuple[float | None, ...], ...] | None = None
    """[layers][heads], bits; None where no token cost was asked for"""
    quadrant: tuple[tuple[str | None, ...], ...] | None = None
    """[layers][heads], the quadrant of each head, or its side of G's axis without token costs; None where no
    cut points are known"""


@dataclass(frozen=True, slots=True)
class BranchRecord:
    """A branch of a token: its tokens from that token on, its score, and whether it was kept."""

    token_ids: tuple[int, ...]
    score: float
    chosen: bool


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a reply with its figures. Filled by the engine once a step, read by streaming and metrics.

    ``signals`` follows ``entropick_sampler.signals.SIGNALS``; ``None`` where the engine could not measure.
    ``logprob`` (nats) and ``top_logprobs`` report the measured distribution. ``strategy`` is None where the
    policy was off. ``parameters``: None, and ``logprob`` NaN, where an engine lost a token's figures (vLLM's
    workers send them apart from the token). ``forced`` marks the tokens of an inserted clarifying text.
    ``branches``: of the token where branches opened; in order of their numbers.
    ``most_probable``: at telemetry ``full``, tokens before and after the sampler, every drawn one among them.
    ``counts``: heads in the regions of the plane of genuineness, None where no cut points are known.
    ``layer_entropy``: layers and their entropies (bits) by the logit lens, where the request wants them of
    this token. ``only_choice``: masks left no other token, so it had no alternative and its entropy is 0.
    ``collapsed``: heads that collapsed in its step, where genuineness is watched.
    """

    token_id: int
    logprob: float
    signals: tuple[float | None, ...]
    strategy: Strategy | None
    parameters: TokenParameters | None
    forced: bool = False
    top_logprobs: tuple[tuple[int, float], ...] = ()
    detail: TokenDetail | None = None
    branches: tuple[BranchRecord, ...] = ()
    most_probable: tuple[ProbableToken, ...] = ()
    counts: HeadCounts | None = None
    layer_entropy: tuple[tuple[int, float], ...] = ()
    only_choice: bool = False
    collapsed: int = 0

    @property
    def chosen(self) -> bool:
        """Tells whether the model chose the token: it was neither given nor without an alternative."""
        return not (self.forced or self.only_choice)

    @property
    def surprisal(self) -> float | None:
        """Returns the token's surprisal in bits, None where it is not known."""
        return self.signals[_SURPRISAL]


@dataclass(frozen=True, slots=True)
class PromptToken:
    """A token of a prompt, with its log probability (nats) behind the tokens before it.

    ``rank``: tokens that are at least as probable, 1 of the most probable. ``top``: the most probable tokens
    with their log probabilities, the most probable first.
    """

    token_id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """The output of one step for one request: its new tokens and, at the end, the reason why it ended.

    The token that ended the request (end of sequence, a stop token id) is the last of ``tokens``. A request
    for no token (``max_tokens`` 0) ends with an output that has none.
    """

    request_id: str
    tokens: tuple[Token, ...]
    finish_reason: FinishReason | None = None
    error: str | None = None
    cached_tokens: int = 0
    """tokens of the prompt whose keys were in the cache when the request began to run"""
    branch_tokens: int = 0
    """tokens of losing branches, so far"""
    prompt: tuple[PromptToken, ...] = ()
    """of a request that wants ``prompt_logprobs``, with its first output: of all tokens but the first"""


@dataclass(frozen=True, slots=True)
class BranchVerdict:
    """The end of a rollout: the number of the branch that was kept, and the count of the others' tokens."""

    request_id: str
    kept: int
    tokens: int


@dataclass(frozen=True, slots=True)
class EngineGauges:
    """The gauges of one moment; blocks are blocks of the KV cache."""

    running: int
    waiting: int
    blocks_used: int
    blocks_total: int


@dataclass(frozen=True, slots=True)
class WatchedLayers:
    """The genuineness of the monitored layers at one moment: means over heads and over running replies.

    ``genuineness``: G; ``token_cost``: bits. None in the place of a figure that no reply has.
    """

    layers: tuple[int, ...]
    genuineness: tuple[float | None, ...]
    token_cost: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class StepReport:
    """A report of one engine step to the event loop, in a single call: the outputs of every row, the gauges.

    ``slots`` gives the slot of each of ``outputs`` (0 <= slot < max_num_seqs), -1 for a request that never
    ran. ``queued_seconds`` lists the requests that got their first step, with the time that they had waited;
    ``prefix_queries`` counts their prompts' tokens, ``prefix_hits`` those that were found in the cache.
    ``preempted`` lists requests that gave their blocks up and wait again, once for each row. ``verdicts``: on
    branches that came to their end in this step.
    """

    outputs: tuple[RequestOutput, ...]
    slots: tuple[int, ...]
    gauges: EngineGauges
    queued_seconds: tuple[tuple[str, float], ...]
    duration: float
    """seconds the step took"""
    prefix_queries: int = 0
    prefix_hits: int = 0
    preempted: tuple[str, ...] = ()
    verdicts: tuple[BranchVerdict, ...] = ()
    layers: WatchedLayers | None = None
    """at most once a second, where genuineness is watched; None in between"""


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """The sampling parameters of the model's generation_config, which hold where a client names none."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_new_tokens: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A description of the served model. Filled by the engine at load, read by routes and metrics."""

    name: str
    """the id that clients send (--served-model-name, or the name of the folder)"""
    source: str
    architecture: str
    max_model_len: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    monitored_layers: tuple[int, ...]
    parameters: int
    dtype: str
    device: str
    defaults: GenerationDefaults
    created: int
    """Unix seconds"""
    layer_entropy: bool = False
    """whether entropies of layers can be measured"""
    prompt_logprobs: bool = True
    """whether the log probabilities of a prompt's tokens can be told"""
    weights: str = ""
    """forms that the native decoder keeps its matrices in, that with most bytes first; empty elsewhere"""
    weight_bytes: int = 0
    """bytes of the matrices of the native decoder"""


DecoderChoice = Literal["auto", "torch", "modules"]
"""which decoder of the embedded engine runs a forward: the fastest that serves the model (the native one
where it does), torch operations at best, or transformers' modules"""
KernelsChoice = Literal["auto", "torch", "numba", "triton"]
"""which implementation attends, measures and draws: auto is Triton on CUDA and native loops on the CPU"""
WeightsChoice = Literal["auto", "file", "float32", "bf16", "fp16", "int8", "int4"]
"""how the native decoder keeps its matrices: in the bytes that the model's file has them in (auto: where
that decoder serves), as float32, or rounded to 16, 8 or 4 bits"""
DEFAULT_BLOCK_SIZE: Final = 16
DEFAULT_KV_CACHE_BYTES: Final = 1 << 29
DEFAULT_BATCHED_TOKENS: Final = 512


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The options to build an engine with. Filled by the command line from the settings."""

    model: str
    served_model_name: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int = 16
    max_num_batched_tokens: int | None = None
    """tokens of one step: decode rows and prefill chunks together; None: the engine's own number"""
    block_size: int | None = None
    """tokens of a KV cache block; None: the engine's own number"""
    kv_cache_bytes: int | None = None
    """None: DEFAULT_KV_CACHE_BYTES, or vLLM's share of a GPU"""
    enable_prefix_caching: bool = True
    """take the blocks of a prompt's beginning from requests that had the same beginning"""
    dtype: str = "auto"
    weights: WeightsChoice = "auto"
    device: str = "auto"
    threads: int | None = None
    decoder: DecoderChoice = "auto"
    kernels: KernelsChoice = "auto"
    batch_invariant: bool = False
    """serve only where a request's numbers are the same, bit for bit, whatever else runs"""
    monitored_layers: tuple[int, ...] | float | None = None
    """None: all layers; a number in (0, 1]: that share of them, by the model's inspection"""
    compile_beside: bool = False
    """True: where native code is missing, serve by torch's operations while another process compiles it"""
    measure: bool = True
    """False: no signal is measured and policy "fixed" alone is served, to tell the price of measuring; only
    the native decoder can leave it out"""
    allow_unvalidated: bool = False
    calibrate: bool = True
    """calibrate at first start where the model has no profile"""
    use_profile: bool = True
    """False: serve without one (calibration)"""
    profile: str | None = None
    """path of a profile to use instead of the model's own"""
    chat_template: str | None = None
    """path of a chat template to use instead of the model's own"""
    chat_template_seconds: float = 5.0
    """seconds that the chat template may take for one conversation"""
