"""A model's calibration profile: quantiles, cut points and clarifying text, as a TOML file with provenance.

Thresholds belong to a model. A profile records the layers that were monitored; an engine that monitors
others must refuse it, because the attention signals are means over the monitored layers.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

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


class ProfileError(ValueError):
    """A profile file that cannot be used; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What calibration measured and chose.

    ``quantiles``: signal name -> values at ``QUANTILE_LEVELS``, for every signal of ``POLICY_SIGNALS`` that
    the engine could measure. ``thresholds``: the cut points of the policy (bits, bits^2).
    ``clarify_weights`` and ``clarify_bias``: CLARIFY also asks that bias + sum of weight x signal is
    positive (a linear discriminant fitted on labelled positions; without labels: no weights, bias 1).
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
    notes: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """A short digest of everything the policy reads: equal ids decide alike."""
        content = json.dumps(self.as_dict(), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def params(self) -> PolicyParams:
        """Preset ``calibrated`` with this profile's cut points."""
        return with_values(CALIBRATED_BASE, self.thresholds)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plain = asdict(self)
        plain["quantiles"] = {name: list(values) for name, values in self.quantiles.items()}
        plain["layers"] = list(self.layers)
        plain["notes"] = list(self.notes)
        return plain

    def save(self, path: Path) -> None:
        """Write the TOML file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_to_toml(self), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read and check a TOML file; raises ProfileError."""
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ProfileError(f"{path.name} cannot be read as a profile: {error}") from error
        return _from_dict(data, path.name)


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
            notes=tuple(str(note) for note in provenance.get("notes", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProfileError(f"{name}: missing or malformed entry: {error}") from error
    _check(profile, name)
    return profile


def _check(profile: Profile, name: str) -> None:
    known = {signal.name for signal in POLICY_SIGNALS}
    missing = [t for t in THRESHOLDS if t not in profile.thresholds]
    if missing:
        raise ProfileError(f"{name}: thresholds.{missing[0]} is missing")
    for table, names in (
        ("thresholds", set(profile.thresholds) - set(THRESHOLDS)),
        ("quantiles", set(profile.quantiles) - known),
        ("clarify.weights", set(profile.clarify_weights) - known),
    ):
        if names:
            raise ProfileError(f"{name}: {table}.{sorted(names)[0]} is not known")
    for signal, values in profile.quantiles.items():
        if len(values) != len(QUANTILE_LEVELS) or list(values) != sorted(values):
            raise ProfileError(f"{name}: quantiles.{signal} must be {len(QUANTILE_LEVELS)} ascending values")


def _to_toml(profile: Profile) -> str:
    """TOML by hand: the standard library reads TOML but does not write it, and the shape here is fixed."""
    lines = [f"format = {_FORMAT}", "", "[provenance]"]
    lines += [
        f"model_hash = {json.dumps(profile.model_hash)}",
        f"data_hash = {json.dumps(profile.data_hash)}",
        f"layers = {list(profile.layers)}",
        f"date = {json.dumps(profile.date)}",
        f"tokens = {profile.tokens}",
        f"notes = {json.dumps(list(profile.notes))}",
        "",
        "[thresholds]",
    ]
    lines += [f"{name} = {profile.thresholds[name]!r}" for name in THRESHOLDS]
    lines += [
        "",
        "[clarify]",
        f"text = {json.dumps(profile.clarify_text)}",
        f"bias = {profile.clarify_bias!r}",
    ]
    lines += ["", "[clarify.weights]"]
    lines += [f"{name} = {value!r}" for name, value in profile.clarify_weights.items()]
    levels = ", ".join(f"{level:.0%}" for level in QUANTILE_LEVELS)
    lines += ["", f"# values at {levels}", "[quantiles]"]
    lines += [f"{name} = {[float(v) for v in values]}" for name, values in profile.quantiles.items()]
    return "\n".join(lines) + "\n"
