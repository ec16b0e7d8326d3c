"""Reads the plan: the models, the runs (questions and arms) and the settings of the server."""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from entropick_eval.arms import ArmError, Arms, choose_arms
from entropick_eval.tasks import SPLITS, Item, Split, TaskError, find_tasks, limited, read_tasks

HERE: Final = Path(__file__).parent
PLAN: Final = HERE / "plan.toml"
_ARMS: Final = "arms.toml"


class PlanError(ValueError):
    """An error in the plan; the message names the table and the field."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model, or another server of it, whose results are kept in a folder of its own."""

    name: str
    serve: str | None
    """the MODEL of ``entropick serve``; None is the shipped model"""
    arms: Arms
    of: str | None
    """the model in whose tables its arms are columns; None: it has tables of its own"""
    by: str | None
    """the command that computes it; None: `make evidence` does"""
    timed: bool
    """whether its questions are asked one at a time, so that the time to an answer says something"""


@dataclass(frozen=True, slots=True)
class Run:
    """Some questions of a half and the arms that are computed on them."""

    model: str
    split: Split
    items: tuple[Item, ...]
    arms: Arms
    apart: bool = False
    """whether its questions stand in no table: it says of which families the model solves too little"""


@dataclass(frozen=True, slots=True)
class EvidencePlan:
    """All that is computed and compared."""

    baseline: str
    default: str
    max_tokens: int
    seed: int
    server: Mapping[str, Any]
    """settings of the server"""
    least: float
    """the share of a family's questions of the fit half that the baseline must solve, or it stands apart"""
    models: Mapping[str, Model]
    runs: tuple[Run, ...]

    def runs_of(self, model: str) -> list[Run]:
        """Returns the runs of a model."""
        return [run for run in self.runs if run.model == model]

    def shared(self, model: str) -> frozenset[str]:
        """Returns the request arms whose replies rules look at: those need the figures of every token."""
        rules = self.models[model].arms.rules.values()
        return frozenset(name for rule in rules for name in (rule.of, rule.first) if name is not None)


def read_plan(path: Path = PLAN) -> EvidencePlan:
    """Reads the plan and the files that it names, which lie beside it. Raises PlanError."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        baseline = str(raw["baseline"])
        models = {name: _model(name, fields, path.parent, baseline) for name, fields in raw["models"].items()}
        seed = int(raw.get("seed", 0))
        runs = tuple(
            _run(number, fields, models, path.parent, seed) for number, fields in enumerate(raw["runs"])
        )
        return EvidencePlan(
            baseline=baseline,
            default=str(raw["default"]),
            max_tokens=int(raw["max_tokens"]),
            seed=seed,
            server=dict(raw["server"]),
            least=float(raw.get("least", 0.0)),
            models=models,
            runs=runs,
        )
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise PlanError(f"{path}: cannot be read: {error}") from error
    except KeyError as error:
        raise PlanError(f"{path}: {error} is missing") from error
    except (ArmError, TaskError) as error:
        raise PlanError(f"{path}: {error}") from error


def _model(name: str, fields: Mapping[str, Any], folder: Path, baseline: str) -> Model:
    for field in fields:
        if field not in ("serve", "arms", "of", "by", "timed"):
            raise PlanError(f"models.{name}.{field}: no such field")
    file = str(folder / fields.get("arms", _ARMS))
    own = fields.get("of") is None
    arms = choose_arms([file], baseline)
    if not own:  # the baseline is that of the other model
        arms = arms.only([one for one in arms.requests if one != baseline])
    return Model(
        name, fields.get("serve"), arms, fields.get("of"), fields.get("by"), fields.get("timed", False)
    )


def _run(number: int, fields: Mapping[str, Any], models: Mapping[str, Model], folder: Path, seed: int) -> Run:
    where = f"runs[{number}]"
    for field in fields:
        if field not in ("model", "split", "tasks", "limit", "arms", "apart"):
            raise PlanError(f"{where}.{field}: no such field")
    model, split = fields["model"], fields["split"]
    if model not in models:
        raise PlanError(f"{where}.model: {model!r} is none of {', '.join(models)}")
    if split not in SPLITS:
        raise PlanError(f"{where}.split: must be one of {', '.join(SPLITS)}")
    files = [str(folder / name) if (folder / name).is_file() else name for name in fields["tasks"]]
    chosen = [item for item in read_tasks(find_tasks(files)) if item.split == split]
    items = limited(chosen, fields.get("limit"), seed)
    if not items:
        raise PlanError(f"{where}: no item of the split {split}")
    arms = models[model].arms.only(_named(where, fields["arms"], models[model]))
    return Run(model, split, tuple(items), arms, bool(fields.get("apart", False)))


def _named(where: str, patterns: Sequence[str], model: Model) -> list[str]:
    """Returns the arms that names or patterns stand for; the arms that only rules need come by themselves."""
    known = [*(name for name in model.arms.requests if name not in model.arms.hidden), *model.arms.rules]
    found: list[str] = []
    for pattern in patterns:
        matching = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
        if not matching:
            raise PlanError(f"{where}.arms: {pattern!r} is no arm of {model.name}")
        found += [name for name in matching if name not in found]
    return found
