"""The last requests with their series, to look at and to replay: bounded in requests and in bytes."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from entropick_sampler.branch_config import BranchConfig
from entropick_sampler.layer_entropy import LayerEntropy
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.reply_adjustments import adjusts

from .engine.grammar.spec import Grammar
from .engine.types import BranchRecord, KeptToken
from .protocol.responses import Summary
from .series import Series
from .telemetry import branch_row
from .vocabulary import Vocabulary

MAX_BYTES: Final = 32 << 20
"""bytes that all choices may take together"""
_HEAD_BYTES: Final = 8 << 10
"""about what a choice takes beside what grows with its tokens, most of it for the summary"""
_BRANCH_BYTES: Final = 256
_BRANCH_TOKEN_BYTES: Final = 40
"""about what a Python number in a tuple takes"""
_KEPT_BYTES: Final = 128
_ADJUSTED_BYTES: Final = 120
"""of a token id with its bias"""


@dataclass(frozen=True, slots=True)
class Finished:
    """A choice that ended.

    ``branches``: the rollouts by the index of the token where they opened, in the reply. ``kept``: tokens of
    the reply that its request was given. ``prompt_token_ids`` (without these): None where prompts are not
    kept; the texts of ``sampling.stop`` are then left out too.
    """

    id: str
    """of its answer"""
    choice: int
    request_id: str
    summary: Summary
    series: Series
    figures: Mapping[str, Any]
    """the other entries of ``head``"""
    text: str
    sampling: SamplingParams
    policy: PolicyConfig
    branches: tuple[tuple[int, tuple[BranchRecord, ...]], ...] = ()
    kept: tuple[KeptToken, ...] = ()
    prompt_token_ids: array[int] | None = None
    grammar: Grammar | None = None
    """that it followed, where prompts are kept"""
    owner: str | None = None
    """the name of the key that asked for it; None where no keys are set"""

    @property
    def size(self) -> int:
        """Returns the bytes that the choice takes, about."""
        records = [record for _, of_token in self.branches for record in of_token]
        branches = sum(_BRANCH_BYTES + _BRANCH_TOKEN_BYTES * len(record.token_ids) for record in records)
        prompt = 0 if self.prompt_token_ids is None else 4 * len(self.prompt_token_ids)
        stops = sum(map(len, self.sampling.stop)) + 40 * len(self.sampling.stop_token_ids)
        adjusted = _ADJUSTED_BYTES * (
            len(self.sampling.logit_bias)
            + len(self.sampling.allowed_token_ids or ())
            + sum(map(len, self.sampling.bad_words))
        )
        text = 4 * (len(self.text) + len(self.grammar.text if self.grammar else ""))
        kept = _KEPT_BYTES * len(self.kept)
        return _HEAD_BYTES + self.series.size + branches + prompt + stops + adjusted + text + kept

    def head(self) -> dict[str, Any]:
        """Returns the choice as /v1/requests shows it, without the series."""
        names = {"id": self.id, "choice": self.choice, "request_id": self.request_id}
        return {**names, **self.figures, "summary": self.summary.model_dump(exclude_unset=True)}

    def whole(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """Returns the choice as /v1/requests/{id} shows it."""
        branches = [
            {"index": index, "branches": [branch_row(record, vocabulary).model_dump() for record in records]}
            for index, records in self.branches
        ]
        return {
            **self.head(),
            "text": self.text,
            "request": self.request(vocabulary),
            "kept_token_ids": [token.token_id for token in self.kept],
            "series": self.series.columns(vocabulary),
            "branches": branches,
        }

    def request(self, vocabulary: Vocabulary) -> dict[str, Any] | None:
        """Returns a body for /v1/completions that makes the choice again; None where prompts are not kept."""
        if self.prompt_token_ids is None:
            return None
        sampling, policy = self.sampling, self.policy
        named = {name: getattr(sampling, name) for name in ("temperature", "top_p", "top_k", "min_p")}
        block: dict[str, Any] = {"policy": policy.policy, "overrides": dict(policy.overrides)}
        if policy.policy == "entropix":
            block |= {"preset": policy.preset, "branch": _branch(policy.branch)}
        return {
            "model": self.figures.get("model"),
            "prompt": list(self.prompt_token_ids),
            "seed": sampling.seed,
            "max_tokens": sampling.max_tokens,
            **{name: value for name, value in named.items() if value is not None},
            "stop": list(sampling.stop),
            "stop_token_ids": list(sampling.stop_token_ids),
            "ignore_eos": sampling.ignore_eos,
            **_adjustments(sampling, vocabulary),
            "entropick": {
                **block,
                "genuineness": policy.genuineness,
                "layer_entropy": _layers(policy.layer_entropy),
                "consensus": False,
                "telemetry": policy.telemetry,
                "rewind": {"request": self.id, "choice": self.choice, "index": len(self.kept)},
            },
        }


def _adjustments(sampling: SamplingParams, vocabulary: Vocabulary) -> dict[str, Any]:
    """Returns the penalties, biases, bans and allowed tokens of a request on the wire."""
    if not adjusts(sampling):
        return {}
    # both spellings of a word, which was cut into tokens, have the same text
    words = dict.fromkeys(vocabulary.text(word).lstrip() for word in sampling.bad_words)
    allowed = sampling.allowed_token_ids
    return {
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "logit_bias": {str(token_id): bias for token_id, bias in sampling.logit_bias},
        "min_tokens": sampling.min_tokens,
        "bad_words": [word for word in words if word],
        **({} if allowed is None else {"allowed_token_ids": list(allowed)}),
    }


def _branch(branch: BranchConfig | None) -> dict[str, Any]:
    """Returns a branch configuration on the wire; without one, the one that opens none."""
    if branch is None:
        return {"budget": 0}
    return {**asdict(branch), "on": sorted(strategy.label for strategy in branch.on)}


def _layers(asked: LayerEntropy | None) -> dict[str, Any] | bool:
    """Returns a request for the layers' entropies on the wire."""
    if asked is None:
        return False
    return {"every": asked.every, **({"layers": list(asked.layers)} if asked.layers else {})}


class _Kept:
    """The answers of an owner, the oldest first."""

    def __init__(self) -> None:
        self.answers: OrderedDict[str, None] = OrderedDict()
        self.size = 0


class RecentRequests:
    """The last answers, at most ``limit`` of them in at most ``max_bytes``, shared fairly among their owners.

    Where there is no room left, the owner that holds the most loses its oldest answer: nobody's answers are
    pushed out by another who holds no less. An answer's choices stay together; one that has no room beside
    the earlier choices of its own answer is not kept.
    """

    def __init__(self, limit: int, max_bytes: int = MAX_BYTES) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._answers: OrderedDict[str, list[Finished]] = OrderedDict()
        self._sizes: dict[str, int] = {}
        """bytes of an answer's choices: an answer may have a thousand, each of which comes by itself"""
        self._owners: dict[str | None, _Kept] = {}
        """the owner who kept something first comes first"""
        self._size = 0

    @property
    def size(self) -> int:
        """Returns the bytes in use, about."""
        return self._size

    def add(self, finished: Finished) -> None:
        """Keeps a choice, and forgets answers beyond the limits."""
        size = finished.size
        own = self._sizes.get(finished.id, 0)
        if not self._limit or own + size > self._max_bytes:
            return
        self._answers.setdefault(finished.id, []).append(finished)
        self._owners.setdefault(finished.owner, _Kept()).answers.setdefault(finished.id)
        self._count(finished.id, finished.owner, size)
        while len(self._answers) > self._limit:
            self._forget(max(self._owners, key=lambda owner: len(self._owners[owner].answers)))
        while self._size > self._max_bytes:
            most = max(self._owners, key=lambda owner: self._owners[owner].size)
            if next(iter(self._owners[most].answers)) == finished.id and len(self._answers[finished.id]) > 1:
                # its owner has nothing else to give up for it
                self._answers[finished.id].pop()
                self._count(finished.id, finished.owner, -size)
            else:
                self._forget(most)

    def _count(self, answer: str, owner: str | None, size: int) -> None:
        """Counts the bytes of a choice that came or went."""
        self._sizes[answer] = self._sizes.get(answer, 0) + size
        self._owners[owner].size += size
        self._size += size

    def _forget(self, owner: str | None) -> None:
        """Forgets the oldest answer of an owner."""
        kept = self._owners[owner]
        oldest, _ = kept.answers.popitem(last=False)
        del self._answers[oldest]
        size = self._sizes.pop(oldest)
        kept.size -= size
        self._size -= size
        if not kept.answers:
            del self._owners[owner]

    def newest(self, owner: str | None = None) -> list[Finished]:
        """Returns all choices of an owner's answers (None: asked for without keys), the newest first."""
        answers = (choices for choices in reversed(self._answers.values()) if choices[0].owner == owner)
        return [choice for choices in answers for choice in choices]

    def find(self, name: str, owner: str | None = None) -> list[Finished]:
        """Returns the choices of an owner's answer, or none.

        ``name``: its id or its X-Request-Id (the newest of that).
        """
        found = self._answers.get(name)
        if found is None or found[0].owner != owner:
            answers = reversed(self._answers.values())
            named = (c for c in answers if c[0].request_id == name and c[0].owner == owner)
            found = next(named, [])
        return sorted(found, key=lambda finished: finished.choice)
