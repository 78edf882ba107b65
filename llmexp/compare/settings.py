"""What a run was set to, as flat keys, and which of them can change a number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmexp.sweeps.identity import decisive, is_decisive

Result = dict[str, Any]


def settings(result: Result) -> dict[str, str]:
    """`strategy.rank: 16` and so on, from the run's recorded config, else from its overrides.

    What changes no number is left out, and so is the seed.
    """
    file = Path(result.get("folder", "")) / "config.yaml"
    if "folder" not in result or not file.is_file():
        return _of_overrides(result)
    from omegaconf import OmegaConf

    tree: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    return {k: str(v) for k, v in _flat(decisive(tree), "") if k != "seed"}


def _of_overrides(result: Result) -> dict[str, str]:
    pairs = [o.lstrip("+~").partition("=") for o in result.get("overrides", [])]
    found = {key: value for key, _, value in pairs if key != "seed" and is_decisive(key)}
    return found | {key: str(result.get(key)) for key in ("strategy", "model", "data")}


def _flat(node: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        parts = [_flat(v, f"{path}.{k}" if path else str(k)) for k, v in node.items()]
        return [pair for part in parts for pair in part]
    return [(path, node)]


def differences(results: list[Result]) -> dict[str, list[str]]:
    """Each key that is not set alike in all runs, with its value in each; "-" where it is not."""
    every = [settings(result) for result in results]
    keys = list(dict.fromkeys(key for one in every for key in one))
    rows = {key: [one.get(key, "-") for one in every] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}
