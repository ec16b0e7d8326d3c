"""The calibration profile of a model: quantiles, cut points and clarifying text, in a TOML file.

Thresholds belong to a model. A profile records the layers that were monitored; an engine that monitors other
layers must refuse the profile, because the attention signals are means over the monitored layers.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import tomli_w

from .error_probability import ErrorModel
from .genuineness.quadrants import Cuts
from .genuineness.reference import WINDOW
from .params import CALIBRATED_BASE, PolicyParams, with_values
from .signals import POLICY_SIGNALS

QUANTILE_LEVELS: Final[tuple[float, ...]] = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99)
PROFILE_FILE: Final = "entropick_profile.toml"
"""The name under which a profile lies beside a model's weights."""
DEFAULT_CLARIFY_TEXT: Final = "Could you tell me more about what you mean?"
THRESHOLDS: Final[tuple[str, ...]] = (
    "greedy_entropy",
    "greedy_varentropy",
    "clarify_entropy",
    "clarify_varentropy",
    "explore_entropy",
    "explore_varentropy",
    "high_uncertainty_entropy",
    "high_uncertainty_varentropy",
)
_FORMAT: Final = 1
_DECIDE_NOTHING: Final = ("error", "genuineness")
"""the fields that are no part of a profile's id"""


class ProfileError(ValueError):
    """A profile that cannot be read or written; the message says which entry is wrong."""


# no slots: a cached property lives in the instance's dictionary
@dataclass(frozen=True)
class Profile:
    """The figures that calibration measured on a model, and the numbers that it chose from them.

    ``quantiles``: signal name -> values at ``QUANTILE_LEVELS``, for every signal of ``POLICY_SIGNALS`` that
    the engine could measure. ``thresholds``: the cut points of the policy (bits, bits^2).
    ``clarify_weights`` and ``clarify_bias``: CLARIFY also asks that bias + sum of weight x signal is
    positive (a linear discriminant fitted on labelled positions; without labels: no weights, bias 1).
    ``opening_weights``: token id -> weight of its log2 probability at the first token of a reply, which is
    added to that sum (:mod:`.opening`); a profile that has any fires at no other token.
    ``error``: the coefficients of ``error_probability``, which decide nothing; None where none were fitted.
    ``genuineness``: the cut points of the quadrants, which decide nothing either; None where none are known.

    The mappings must not be changed: ``id`` and ``params`` are computed once.
    """

    model_hash: str
    data_hash: str
    layers: tuple[int, ...]
    date: str
    tokens: int
    quantiles: Mapping[str, tuple[float, ...]]
    thresholds: Mapping[str, float]
    clarify_text: str = DEFAULT_CLARIFY_TEXT
    clarify_weights: Mapping[str, float] = field(default_factory=dict)
    clarify_bias: float = 1.0
    opening_weights: Mapping[int, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: ErrorModel | None = None
    genuineness: Cuts | None = None

    def __hash__(self) -> int:
        """Returns the hash of the profile's id, so that profiles can be keys of a cache."""
        return hash(self.id)

    @cached_property
    def id(self) -> str:
        """Returns a digest (12 hexadecimal digits) of all fields but ``error`` and ``genuineness``.

        Profiles of equal id decide alike.
        """
        decides = {name: value for name, value in self.as_dict().items() if name not in _DECIDE_NOTHING}
        content = json.dumps(decides, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @cached_property
    def params(self) -> PolicyParams:
        """Returns the numbers of preset ``calibrated`` with this profile's cut points."""
        return with_values(CALIBRATED_BASE, self.thresholds)

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as plain values, for JSON, without ``error`` and ``genuineness`` where None."""
        plain = asdict(replace(self, error=None, genuineness=None))
        for name in _DECIDE_NOTHING:
            del plain[name]
        if self.error is not None:
            plain["error"] = self.error.as_dict()
        if self.genuineness is not None:
            plain["genuineness"] = _plain_cuts(self.genuineness)
        plain["quantiles"] = {name: list(values) for name, values in self.quantiles.items()}
        plain["layers"] = list(self.layers)
        plain["opening_weights"] = [list(pair) for pair in sorted(self.opening_weights.items())]
        plain["notes"] = list(self.notes)
        return plain

    def save(self, path: Path) -> None:
        """Writes the profile to a TOML file, whole or not at all.

        A file of that name stays as it was until the new one is on the disk. Raises OSError where the folder
        cannot be written, and ProfileError for a text that UTF-8 cannot hold.
        """
        try:
            content = _to_toml(self).encode()
        except UnicodeEncodeError as error:
            raise ProfileError(f"{path.name}: a text of the profile is not Unicode: {error}") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace_file(path, content)

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Returns the profile in a TOML file; raises ProfileError for a file that cannot be used."""
        try:
            data = tomllib.loads(path.read_bytes().decode())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise ProfileError(f"{path.name} cannot be read as a profile: {error}") from error
        return _from_dict(data, path.name)


def _replace_file(path: Path, content: bytes) -> None:
    """Writes a file beside ``path`` and renames it to ``path`` once its bytes are on the disk."""
    # not tempfile: its files can be read by their owner alone, also after the rename
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _from_dict(data: Mapping[str, Any], name: str) -> Profile:
    if data.get("format") != _FORMAT:
        raise ProfileError(f"{name}: profile format {data.get('format')!r}, this version reads {_FORMAT}")
    try:
        provenance, clarify = data["provenance"], data["clarify"]
        profile = Profile(
            model_hash=str(provenance["model_hash"]),
            data_hash=str(provenance["data_hash"]),
            layers=tuple(int(layer) for layer in provenance["layers"]),
            date=str(provenance["date"]),
            tokens=int(provenance["tokens"]),
            quantiles={k: tuple(float(x) for x in v) for k, v in data["quantiles"].items()},
            thresholds={k: float(v) for k, v in data["thresholds"].items()},
            clarify_text=str(clarify["text"]),
            clarify_weights={k: float(v) for k, v in clarify["weights"].items()},
            clarify_bias=float(clarify["bias"]),
            opening_weights=_opening_weights(clarify.get("opening")),
            notes=tuple(str(note) for note in provenance.get("notes", ())),
            error=ErrorModel.of_dict(data["error"]) if "error" in data else None,
            genuineness=_cuts(data["genuineness"]) if "genuineness" in data else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ProfileError(f"{name}: missing or malformed entry: {error}") from error
    _check(profile, name)
    return profile


def _opening_weights(table: Mapping[str, Any] | None) -> dict[int, float]:
    """Returns the weights in a profile's table ``clarify.opening``; ValueError for a malformed one."""
    if table is None:
        return {}
    ids = [int(token) for token in table["tokens"]]
    weights = [float(weight) for weight in table["weights"]]
    if len(set(ids)) != len(weights) or len(ids) != len(weights) or any(token < 0 for token in ids):
        raise ValueError("clarify.opening needs a weight for each of its tokens, and every token once")
    return dict(zip(ids, weights, strict=True))


def _cuts(table: Mapping[str, Any]) -> Cuts:
    """Returns the cut points in a profile's table ``genuineness``.

    Raises ValueError for another form or window than the server's, and as :class:`Cuts` does.
    """
    if (table["form"], table["window"]) != ("normalised", WINDOW):
        raise ValueError(f"genuineness: this version reads cut points of form normalised, window {WINDOW}")
    cost, genuine, mechanical = (float(table[name]) for name in ("cost", "genuine", "mechanical"))
    pull = float(table["pull"]) if "pull" in table else None
    return Cuts(cost, genuine, mechanical, WINDOW, pull=pull)


def _plain_cuts(cuts: Cuts) -> dict[str, Any]:
    return {name: value for name, value in asdict(cuts).items() if value is not None}


def _check(profile: Profile, name: str) -> None:
    """Raises ProfileError that names the first entry which is missing, unknown or out of order."""
    known = {signal.name for signal in POLICY_SIGNALS}
    missing = [t for t in THRESHOLDS if t not in profile.thresholds]
    if missing:
        raise ProfileError(f"{name}: thresholds.{missing[0]} is missing")
    for table, entries, names in (
        ("thresholds", profile.thresholds, set(THRESHOLDS)),
        ("clarify.weights", profile.clarify_weights, known),
        ("clarify", {"bias": profile.clarify_bias}, {"bias"}),
        ("clarify.opening", profile.opening_weights, set(profile.opening_weights)),
    ):
        for entry, value in entries.items():
            if entry not in names:
                raise ProfileError(f"{name}: {table}.{entry} is not known")
            if not math.isfinite(value):
                raise ProfileError(f"{name}: {table}.{entry} must be a finite number")
    for signal, values in profile.quantiles.items():
        if signal not in known:
            raise ProfileError(f"{name}: quantiles.{signal} is not known")
        ascending = all(map(math.isfinite, values)) and list(values) == sorted(values)
        if len(values) != len(QUANTILE_LEVELS) or not ascending:
            raise ProfileError(f"{name}: quantiles.{signal} must be {len(QUANTILE_LEVELS)} ascending values")


def _opening_table(weights: Mapping[int, float]) -> dict[str, Any]:
    if not weights:
        return {}
    ids = sorted(weights)
    return {"opening": {"tokens": ids, "weights": [weights[token] for token in ids]}}


def _to_toml(profile: Profile) -> str:
    levels = ", ".join(f"{level:.0%}" for level in QUANTILE_LEVELS)
    content = {
        "format": _FORMAT,
        "provenance": {
            "model_hash": profile.model_hash,
            "data_hash": profile.data_hash,
            "layers": list(profile.layers),
            "date": profile.date,
            "tokens": profile.tokens,
            "notes": list(profile.notes),
        },
        "thresholds": {name: profile.thresholds[name] for name in THRESHOLDS},
        "clarify": {
            "text": profile.clarify_text,
            "bias": profile.clarify_bias,
            "weights": dict(profile.clarify_weights),
            **_opening_table(profile.opening_weights),
        },
        "quantiles": {name: list(values) for name, values in profile.quantiles.items()},
    }
    if profile.error is not None:
        content["error"] = profile.error.as_dict()
    if profile.genuineness is not None:
        content["genuineness"] = _plain_cuts(profile.genuineness)
    return f"# quantiles: values at {levels}\n{tomli_w.dumps(content)}"
