"""The ``entropick`` block of a request."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from entropick_sampler.branch_config import BRANCH_NAMES, branch_config
from entropick_sampler.layer_entropy import FIELDS as LENS_FIELDS
from entropick_sampler.layer_entropy import LayerEntropy, layer_entropy
from entropick_sampler.params import (
    PARAM_NAMES,
    PolicyConfig,
    PolicyName,
    PresetName,
    TelemetryLevel,
    check_overrides,
)

from ..answers import Extractor, ExtractorError, extractor
from ..consensus.config import ConsensusConfig, consensus_config
from . import option_schemas as schemas
from .bounds import MAX_KEPT
from .errors import ApiError, bad_request, shown
from .lists import AtMost
from .parsing import WireModel


def _unknown(where: str, what: str, name: str, known: Sequence[str]) -> ApiError:
    """Returns the refusal of an unknown name, with the known name that is nearest."""
    near = difflib.get_close_matches(name[:64], known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known names: {', '.join(known)}."
    path = f"{where}.{shown(name)}"
    return bad_request(f"{path}: no such {what}; {hint}", path)


_ANY_EXTRACTOR: Final = ConsensusConfig(extract="text")
"""stands for the server's defaults while fields are checked one by one"""


class RewindOptions(WireModel):
    """The beginning of a reply that a request goes on behind, in tokens: from /v1/requests, or given."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    request: str | None = Field(None, min_length=1, max_length=128, description="id of a recent request")
    choice: int = Field(
        0, ge=0, description="of that request; with token_ids, the number that the summary tells"
    )
    index: int | None = Field(None, ge=0, description="tokens of that reply to keep")
    token_ids: Annotated[list[int], AtMost(MAX_KEPT)] | None = Field(
        None, description="the tokens to keep, instead of request and index"
    )
    token_id: int | None = Field(
        None, description="the next token; left out: it is drawn, at the position that it has"
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("must be an object")
        for key in data:
            if key not in cls.model_fields:
                raise _unknown("entropick.rewind", "field", key, [*cls.model_fields])
        return data

    @property
    def size(self) -> int:
        """Returns the characters that take as long to tokenise as the tokens to go through."""
        return 16 * len(self.token_ids or ())

    @model_validator(mode="after")
    def _one_source(self) -> RewindOptions:
        if (self.request is None) == (self.token_ids is None):
            raise ValueError("needs either request with index, or token_ids")
        if (self.request is None) != (self.index is None):
            name = "entropick.rewind.index"
            raise bad_request(f"{name}: goes together with request, and neither without the other.", name)
        return self


class EntropickOptions(WireModel):
    """The ``entropick`` block of a request; the server's default stands for a field that is left out."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    policy: PolicyName | None = Field(
        None,
        description="entropix: the signals decide; fixed: an ordinary sampler; others: one formula each",
    )
    preset: PresetName | None = Field(None, description="where the policy's numbers come from")
    overrides: Annotated[dict[str, Any], WithJsonSchema(schemas.OVERRIDES)] | None = Field(
        None, description="numbers of the policy, by name"
    )
    branch: Annotated[dict[str, Any], WithJsonSchema(schemas.BRANCH)] | None = Field(
        None, description="roll out continuations where the model is in doubt and keep the best"
    )
    consensus: Annotated[dict[str, Any], WithJsonSchema(schemas.CONSENSUS)] | Literal[False] | None = Field(
        None,
        description="draw several replies and return the one whose answer wins a vote; false: not even where "
        "that is the server's default",
    )
    answer: Annotated[str | dict[str, Any], WithJsonSchema(schemas.ANSWER)] | None = Field(
        None, description="where the answer stands in a reply, for error_probability: an extractor"
    )
    rewind: RewindOptions | None = Field(
        None, description="go on behind the first tokens of an earlier reply; draws keep their positions"
    )
    telemetry: TelemetryLevel | None = Field(None, description="how much of the measurements comes back")
    at_end: bool | None = Field(
        None, description="in a stream, all rows again on the last chunk; with telemetry tokens or full"
    )
    genuineness: bool | Literal["scores", "seed"] | None = Field(
        None,
        description="scores: G of the attention heads; true: token costs and quadrants too; seed: also the "
        "source's literal form; false: none",
    )
    layer_entropy: (
        Annotated[dict[str, Any], WithJsonSchema(schemas.LAYER_ENTROPY)] | Literal[False] | None
    ) = Field(
        None,
        description="entropy behind each of some layers, of every n-th token, by the logit lens; false: none",
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("must be an object")
        for key in data:
            if key not in cls.model_fields:
                raise _unknown("entropick", "option", key, [*cls.model_fields])
        return data

    @field_validator("consensus", "layer_entropy", mode="before")
    @classmethod
    def _object_or_false(cls, value: Any) -> Any:
        if value is None or value is False or isinstance(value, dict):
            return value
        raise ValueError("must be an object, or false")

    @field_validator("genuineness", mode="before")
    @classmethod
    def _asked_or_not(cls, value: Any) -> Any:
        if value is None or isinstance(value, bool) or value in ("scores", "seed"):
            return value
        raise ValueError("must be true, false, 'scores' or 'seed'")

    @field_validator("answer", mode="before")
    @classmethod
    def _extractor(cls, value: Any) -> Any:
        if value is not None:
            try:
                extractor(value)
            except ExtractorError as error:
                raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _ranges(self) -> EntropickOptions:
        for name in self.overrides or {}:
            if name not in PARAM_NAMES:
                raise _unknown("entropick.overrides", "policy parameter", name, PARAM_NAMES)
        for name in self.branch or {}:
            if name not in BRANCH_NAMES:
                raise _unknown("entropick.branch", "field", name, BRANCH_NAMES)
        for name in self.layer_entropy or {}:
            if name not in LENS_FIELDS:
                raise _unknown("entropick.layer_entropy", "field", name, LENS_FIELDS)
        try:
            layer_entropy(self.layer_entropy or {})
            check_overrides(self.overrides or {})
            branch_config(self.branch or {})
            consensus_config(self.consensus or {}, _ANY_EXTRACTOR)
        except (ValueError, OverflowError) as error:
            param = f"entropick.{str(error).partition(':')[0]}"
            raise bad_request(f"entropick.{error}", param) from error
        return self

    def config(self, default: PolicyConfig) -> PolicyConfig:
        """Returns the request's policy over the server's defaults.

        Raises a 400 for branches under any policy but entropix, and for ``at_end`` without rows.
        """
        policy = self.policy or default.policy
        if self.branch is not None and policy != "entropix":
            message = "entropick.branch: branches open where the signals say so: they need policy 'entropix'."
            raise bad_request(message, "entropick.branch")
        telemetry = self.telemetry or default.telemetry
        if self.at_end and telemetry not in ("tokens", "full"):
            message = (
                f"entropick.at_end: there are no rows at telemetry '{telemetry}': ask for 'tokens' or 'full'."
            )
            raise bad_request(message, "entropick.at_end")
        return PolicyConfig(
            policy=policy,
            preset=self.preset or default.preset,
            overrides=_over(self.overrides or {}, default.overrides),
            telemetry=telemetry,
            at_end=bool(self.at_end),
            branch=default.branch if self.branch is None else branch_config(self.branch, default.branch),
            genuineness=default.genuineness if self.genuineness is None else self.genuineness,
            layer_entropy=self._lens(default.layer_entropy),
        )

    def _lens(self, default: LayerEntropy | None) -> LayerEntropy | None:
        if self.layer_entropy is None or self.layer_entropy is False:
            return default if self.layer_entropy is None else None
        return layer_entropy(self.layer_entropy, default)

    @property
    def extractor(self) -> Extractor | None:
        """Makes the extractor that ``answer`` describes; None where the request names none."""
        return None if self.answer is None else extractor(self.answer)

    def vote(self, default: ConsensusConfig | None) -> ConsensusConfig | None:
        """Returns the request's consensus over the server's default; None for none.

        Raises a 400 where nothing says what a reply answers, and where the request says it twice.
        """
        asked = self.consensus
        if asked is False or (asked is None and default is None):
            return None
        values = dict(asked or {})
        if self.answer is not None:
            if "extract" in values:
                message = "entropick.answer: not together with entropick.consensus.extract: both name it."
                raise bad_request(message, "entropick.answer")
            values["extract"] = self.answer
        try:
            return consensus_config(values, default)
        except ValueError as error:
            raise bad_request(f"entropick.{error}.", f"entropick.{str(error).partition(':')[0]}") from error


def _over(asked: Mapping[str, float], default: Mapping[str, float]) -> dict[str, float]:
    """Returns the request's overrides over the server's, whose temperature limits yield to the request's."""
    merged = {**default, **asked}
    if merged.get("temperature_min", 0.0) > merged.get("temperature_max", math.inf):
        merged = {k: v for k, v in merged.items() if k in asked or not k.startswith("temperature_m")}
    return merged
