"""Trainer, callback and strategy nodes, checked against their source without importing them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llmexp.configure import signatures
from llmexp.errors import did_you_mean, shown

Where = Callable[[str], str]
TRAINER = "pytorch_lightning.Trainer"
# What the run itself gives to the Trainer (`llmexp.hardware.build_trainer`).
TRAINER_OWN = {
    "callbacks",
    "default_root_dir",
    "enable_checkpointing",
    "enable_progress_bar",
    "logger",
    "plugins",
    "use_distributed_sampler",
}


def complaints(tree: dict[str, Any], where: Where) -> list[str]:
    """One sentence for each argument that its class does not take, or not with that value."""
    found = []
    for group in ("trainer", "hardware"):
        node = tree.get(group)
        if isinstance(node, dict):
            found += list(_trainer(node, group))
    found += list(_twice(tree.get("trainer"), tree.get("hardware")))
    callbacks = tree.get("callbacks")
    for name, node in callbacks.items() if isinstance(callbacks, dict) else ():
        key = f"callbacks.{name}"
        if node is None:
            continue
        if not isinstance(node, dict) or "_target_" not in node:
            found.append((key, "needs a _target_, or null"))
        else:
            found += list(_bound(node, key))
    return [f"{where(key)}: {key}: {problem}" for key, problem in found]


def _trainer(node: dict[str, Any], group: str) -> Iterator[tuple[str, str]]:
    known = (signatures.arguments(TRAINER) or set()) - TRAINER_OWN
    for name, value in node.items():
        key = f"{group}.{name}"
        if name in TRAINER_OWN:
            yield key, "the run itself gives this argument to the Trainer"
        elif name not in known:
            yield key, f"the Trainer takes no such argument; {did_you_mean(name, known)}"
        elif isinstance(value, (dict, list)):
            yield from _within(value, key)
        else:
            yield from _typed(TRAINER, name, value, key)
    rows = node.get("accumulate_grad_batches")
    if type(rows) is int and rows < 1:
        yield f"{group}.accumulate_grad_batches", f"must be 1 or more, not {rows}"


def _twice(trainer: Any, hardware: Any) -> Iterator[tuple[str, str]]:
    """Both groups are arguments of the one Trainer."""
    both = isinstance(trainer, dict) and isinstance(hardware, dict)
    for name in sorted(trainer.keys() & hardware.keys()) if both else ():
        yield f"trainer.{name}", f"hardware.{name} is the same argument; leave out one of the two"


def _bound(node: dict[str, Any], key: str) -> Iterator[tuple[str, str]]:
    target = node["_target_"]
    if not signatures.may_exist(target):
        module, _, name = target.rpartition(".")
        yield f"{key}._target_", f"{module} has no {name}"
        return
    known = signatures.arguments(target)
    for name, value in node.items():
        if known is None or name == "_target_":
            continue
        if name not in known:
            cls = target.rpartition(".")[2]
            yield f"{key}.{name}", f"{cls} takes no such argument; {did_you_mean(name, known)}"
        elif signatures.is_function(target, name) and value is not None:
            yield f"{key}.{name}", "takes a function, which YAML cannot write"
        else:
            yield from _typed(target, name, value, f"{key}.{name}")
            yield from _within(value, f"{key}.{name}")


def _within(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Nodes with a `_target_` among the values of an argument."""
    if isinstance(value, dict) and "_target_" in value:
        yield from _bound(value, key)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _within(inner, f"{key}.{name}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _within(inner, f"{key}[{i}]")


def _typed(target: str, name: str, value: Any, key: str) -> Iterator[tuple[str, str]]:
    """A plain value of a type that the argument's annotation does not name."""
    accepted = signatures.plain_types(target, name)
    if accepted is None or isinstance(value, (dict, list)):
        return
    kind = "None" if value is None else type(value).__name__
    if kind not in accepted and not (kind == "int" and "float" in accepted):
        names = [*sorted(accepted - {"None"}), *(["null"] if "None" in accepted else [])]
        yield key, f"must be {' or '.join(names)}, not {shown(value)}"
