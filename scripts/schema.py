"""JSON Schema of every node that YAML can hold, so that an editor completes and checks it.

    python scripts/schema.py [FOLDER]      (FOLDER is outputs/schema where none is given)

writes one file for each class, named as its `_target_`, and `global.json` for files that open with
`# @package _global_` (strategies, recipes). An editor with the YAML language server (VS Code,
Neovim, JetBrains ...) reads it from a comment at the top of a file:

    # yaml-language-server: $schema=../../outputs/schema/llmexp.optim.AdamW.json
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pydantic import TypeAdapter

from llmexp.config import RunConfig, is_spec
from llmexp.configure import allow
from llmexp.configure.composed import conf_dir

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# Keys of Hydra's, which every file may have beside its own.
HYDRA_KEYS = {
    "_target_": {"type": "string", "description": "The class that this node builds."},
    "defaults": {"type": "array", "description": "Files this one starts from."},
}
# An interpolation, or a value that the command line must give, stands wherever a value can.
LATER = {"type": "string", "pattern": r"^\$\{.*\}$|^\?\?\?$"}


def targets() -> dict[str, set[str]]:
    """Group -> the classes that its files name."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in sorted(conf_dir().glob("*/*.yaml")):
        tree = OmegaConf.to_container(OmegaConf.load(file))
        for key, name, target in allow.named(tree):
            if name != "_target_":
                continue
            group = key.split(".")[0] if "." in key else file.parent.name
            if is_spec(allow.resolve(target)):
                found[group].add(target)
    return found


def schema(cls: Any) -> dict[str, Any]:
    """A class's schema. No key is required: a file may leave it to its `defaults`."""
    made = TypeAdapter(cls).json_schema()
    made.pop("required", None)
    own = {name: _field(node) for name, node in made["properties"].items()}
    return {"$schema": DIALECT, **made, "properties": HYDRA_KEYS | own}


def _field(node: dict[str, Any]) -> dict[str, Any]:
    said = {key: node.pop(key) for key in ("description", "default", "title") if key in node}
    return {**said, "anyOf": [node, LATER]}


def whole_file(groups: dict[str, set[str]]) -> dict[str, Any]:
    """The schema of a file that sets keys of several groups."""
    made = schema(RunConfig)
    for group, names in groups.items():
        made["properties"][group] = {"anyOf": [{"$ref": f"{name}.json"} for name in sorted(names)]}
    made["properties"]["hydra"] = {"type": "object"}
    return made


def main(folder: Path) -> list[Path]:
    """Write the schemas; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    groups = targets()
    classes = sorted(set().union(*groups.values()))
    schemas = {name: schema(allow.resolve(name)) for name in classes}
    schemas["global"] = whole_file(groups)
    for name, made in schemas.items():
        (folder / f"{name}.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    return [folder / f"{name}.json" for name in schemas]


if __name__ == "__main__":
    for path in main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/schema")):
        print(path)
