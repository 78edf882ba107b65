"""Check a composed experiment in milliseconds: build every spec, gather every complaint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from llmexp import allow, signatures
from llmexp.config import RunConfig, is_spec
from llmexp.errors import ConfigError, UserError, did_you_mean

if TYPE_CHECKING:
    from llmexp.models import HFModel
    from llmexp.optim import AdamW
    from llmexp.strategies.base import Strategy
    from llmexp.tasks.base import Task

Where = Callable[[str], str]
GROUPS = ("strategy", "model", "data", "optim", "tracking")
# Computed by the run itself, so naming them in YAML would have no effect.
TRAINER_OWN = {
    "callbacks",
    "logger",
    "default_root_dir",
    "enable_progress_bar",
    "enable_checkpointing",
    "use_distributed_sampler",
}


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
    built = {g: build_node(tree.get(g), g, where, complaints) for g in GROUPS}
    complaints += third_party_complaints(tree, where)
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

    found = [f"{where('model')}: {c}" for c in e.model.check()]
    found += [f"{where('tracking')}: {c}" for c in e.tracking.check()]
    found += [f"{where('data')}: {c}" for c in quick_check(e.task)]
    found += [f"{where('data')}: {c}" for c in e.task.check(e.model)]
    if not found:
        found = [f"{where('strategy')}: {c}" for c in e.strategy.check(e.model, e.task, e.config)]
    return found


def build_node(node: Any, key: str, where: Where, complaints: list[str]) -> Any:
    """Build the spec that `node['_target_']` names, nested specs first."""
    if isinstance(node, list):
        return [build_node(v, f"{key}[{i}]", where, complaints) for i, v in enumerate(node)]
    if not isinstance(node, dict):
        return node
    values = {k: build_node(v, f"{key}.{k}", where, complaints) for k, v in node.items()}
    target = values.pop("_target_", None)
    if target is None:
        if key in GROUPS:
            complaints.append(f"{where(key)}: {key}: needs a _target_ that names its class")
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
    """Construct a spec; every pydantic error becomes one complaint."""
    try:
        return cls(**values)
    except ValidationError as error:
        for detail in error.errors():
            complaints.append(_sentence(cls, detail, key, where))
    except UserError as error:
        complaints.append(f"{where(key)}: {error}")
    return None


def _sentence(cls: Any, detail: Any, key: str, where: Where) -> str:
    path = ".".join(str(p) for p in ([key] if key else []) + list(detail["loc"]))
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        fields = _fields_at(cls, detail["loc"][:-1])
        problem = f"unknown key; {did_you_mean(str(detail['loc'][-1]), fields)}"
    elif detail["type"] in ("missing", "missing_argument"):
        problem = f"must be given, for example {path}=VALUE"
    else:
        problem = f"{detail['msg'][0].lower()}{detail['msg'][1:]}, not {detail['input']!r}"
    return f"{where(path)}: {path}: {problem}"


def _fields_at(cls: Any, loc: tuple[Any, ...]) -> list[str]:
    for name in loc:
        cls = cls.__pydantic_fields__[name].annotation
        if not is_spec(cls):
            return []
    return list(cls.__pydantic_fields__)


def third_party_complaints(tree: dict[str, Any], where: Where) -> list[str]:
    """Argument names of the Trainer, the callbacks and Lightning's strategy, bound by name."""
    known = signatures.arguments("pytorch_lightning.Trainer") or set()
    found = []
    for group in ("trainer", "hardware"):
        node = tree.get(group)
        if not isinstance(node, dict):
            continue
        for name in node:
            key = f"{group}.{name}"
            if name not in known - TRAINER_OWN:
                hint = did_you_mean(name, known - TRAINER_OWN)
                found.append(f"{where(key)}: {key}: the Trainer takes no such argument; {hint}")
            if isinstance(node[name], dict) and "_target_" in node[name]:
                found += _bind(node[name], key, where)
    callbacks = tree.get("callbacks")
    for name, node in (callbacks.items() if isinstance(callbacks, dict) else ()):
        if node is None:
            continue
        if not isinstance(node, dict) or "_target_" not in node:
            found.append(f"{where(f'callbacks.{name}')}: callbacks.{name}: needs a _target_, or null")
            continue
        found += _bind(node, f"callbacks.{name}", where)
    return found


def _bind(node: dict[str, Any], key: str, where: Where) -> list[str]:
    known = signatures.arguments(node["_target_"])
    if known is None:
        return []
    return [
        f"{where(f'{key}.{name}')}: {key}.{name}: {node['_target_'].rpartition('.')[2]} takes no "
        f"such argument; {did_you_mean(name, known)}"
        for name in node
        if name != "_target_" and name not in known
    ]
