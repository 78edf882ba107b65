"""Check a composed experiment in milliseconds: build every spec, gather every complaint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from pydantic import ValidationError

from llmexp.config import RunConfig, is_spec
from llmexp.configure import allow, monitors, third_party
from llmexp.errors import ConfigError, UserError, did_you_mean, shown
from llmexp.nets import attention

if TYPE_CHECKING:
    from llmexp.models import HFModel
    from llmexp.optim import AdamW
    from llmexp.strategies.base import Strategy
    from llmexp.tasks.base import Task

UNIONS = (Union, UnionType)
Where = Callable[[str], str]
GROUPS = ("strategy", "model", "data", "optim", "tracking")


@dataclass(frozen=True)
class Experiment:
    """One experiment whose every node is a checked spec."""

    config: RunConfig
    strategy: Strategy
    model: HFModel
    task: Task
    optim: AdamW
    tracking: Any


def build(tree: dict[str, Any], where: Where = lambda key: "config.yaml") -> Experiment:
    """The checked experiment of a composed plain tree, or one ConfigError with all complaints.

    `where` tells for a key which file (or the command line) it came from.
    """
    found = allow.complaints(tree)
    if found:
        raise ConfigError(f"{where(c.split(': ')[0])}: {c}" for c in found)
    complaints: list[str] = []
    built = {g: build_group(tree.get(g), g, where, complaints) for g in GROUPS}
    complaints += third_party.complaints(tree, where)
    config = make(RunConfig, {**tree, **built}, "", where, complaints)
    if not complaints and config is not None:
        experiment = Experiment(
            config=config,
            strategy=built["strategy"],
            model=built["model"],
            task=built["data"],
            optim=built["optim"],
            tracking=built["tracking"],
        )
        complaints += incompatibilities(experiment, where)
        if not complaints:
            return experiment
    raise ConfigError(complaints)


def incompatibilities(e: Experiment, where: Where) -> list[str]:
    """What single specs cannot see: the strategy on this model and task, the input files."""
    from llmexp.data.sources import quick_check
    from llmexp.data.stream_check import trainer_complaints

    found = [*e.model.check(), *e.tracking.check(), *quick_check(e.task), *e.task.check(e.model)]
    found += trainer_complaints(e.task, e.config.trainer, e.strategy.trains)
    found += attention.complaints(e.model.attention, e.model.dtype, e.config.hardware)
    found += monitors.complaints(e.config.callbacks)
    if not found:
        found = e.strategy.check(e.model, e.task, e.config)
    return [f"{where(complaint.split(':')[0])}: {complaint}" for complaint in found]


def build_group(node: Any, group: str, where: Where, complaints: list[str]) -> Any:
    """The spec of a group, which is a mapping with a `_target_`."""
    if isinstance(node, dict) and "_target_" in node:
        return build_node(node, group, where, complaints)
    problem = "needs a _target_ that names its class"
    if isinstance(node, dict) and group in node:
        problem = "holds a node of its own name; the file's first line must be # @package _global_"
    complaints.append(f"{where(group)}: {group}: {problem}")
    return None


def build_node(node: Any, key: str, where: Where, complaints: list[str]) -> Any:
    """Build the spec that `node['_target_']` names, nested specs first."""
    if isinstance(node, list):
        return [build_node(v, f"{key}[{i}]", where, complaints) for i, v in enumerate(node)]
    if not isinstance(node, dict):
        return node
    values = {k: build_node(v, f"{key}.{k}", where, complaints) for k, v in node.items()}
    target = values.pop("_target_", None)
    if target is None:
        return values
    try:
        cls = allow.resolve(target)
    except UserError as error:
        complaints.append(f"{where(key)}: {key}._target_: {error}")
        return None
    if not is_spec(cls):
        complaints.append(f"{where(key)}: {key}._target_: {target} is not a spec class")
        return None
    return make(cls, values, key, where, complaints)


def make(cls: Any, values: dict[str, Any], key: str, where: Where, complaints: list[str]) -> Any:
    """Construct a spec; what pydantic says about one key becomes one complaint."""
    try:
        return cls(**values)
    except ValidationError as error:
        problems: dict[str, list[str]] = {}
        for detail in error.errors():
            loc = _without_alternative(cls, detail["loc"])
            path = ".".join([*([key] if key else []), *map(str, loc)])
            problems.setdefault(path, []).append(_problem(cls, detail, path))
        for path, said in problems.items():
            complaints.append(f"{where(path)}: {path}: {_joined(said)}")
    except UserError as error:
        complaints.append(f"{where(key)}: {error}")
    return None


def _without_alternative(cls: Any, loc: tuple[Any, ...]) -> tuple[Any, ...]:
    """The path of a key: where a field takes several types, pydantic adds the one it tried."""
    field = cls.__pydantic_fields__.get(loc[0]) if loc else None
    kinds = [kind for kind in get_args(field.annotation if field else None) if kind is not NoneType]
    several = field is not None and len(kinds) > 1 and get_origin(field.annotation) in UNIONS
    return loc[:1] if several else loc


def _problem(cls: Any, detail: Any, path: str) -> str:
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        fields = _fields_at(cls, detail["loc"][:-1])
        return f"unknown key; {did_you_mean(str(detail['loc'][-1]), fields)}"
    if detail["type"] in ("missing", "missing_argument"):
        return f"must be given, for example {path}=VALUE"
    return f"{detail['msg'][0].lower()}{detail['msg'][1:]}, not {shown(detail['input'])}"


def _joined(said: list[str]) -> str:
    """Several refusals of one value as one: `input should be A or B, not 3`."""
    first, *rest = said
    same = [text.removeprefix("input should be ") for text in rest]
    head, comma, value = first.rpartition(", not ")
    return " or ".join([head, *(t.rpartition(", not ")[0] for t in same)]) + comma + value


def _fields_at(cls: Any, loc: tuple[Any, ...]) -> list[str]:
    for name in loc:
        cls = cls.__pydantic_fields__[name].annotation
        if not is_spec(cls):
            return []
    return list(cls.__pydantic_fields__)
