"""The schema that editors read knows every key of every YAML that is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]
FILES = [f for f in sorted((ROOT / "conf").glob("*/*.yaml")) if f.parent.name != "hydra"]


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("schema")
    command = [sys.executable, str(ROOT / "scripts" / "schema.py"), str(folder)]
    subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=True)
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_every_key_of_a_file_is_in_its_schema(file: Path, schemas: dict[str, Any]) -> None:
    tree = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(tree, dict)
    if "@package _global_" in file.read_text():
        assert tree.keys() <= schemas["global"]["properties"].keys()
    for node in [tree, *(value for value in tree.values() if isinstance(value, dict))]:
        if node.get("_target_") in schemas:
            assert node.keys() <= schemas[node["_target_"]]["properties"].keys()


def test_a_schema_tells_types_ranges_and_what_a_key_means(schemas: dict[str, Any]) -> None:
    lora = schemas["llmexp.strategies.lora.LoRA"]
    assert lora["additionalProperties"] is False
    assert lora["properties"]["rank"]["anyOf"][0] == {"type": "integer", "minimum": 1}
    assert "all-linear" in lora["properties"]["target_modules"]["description"]
    strategies = {ref["$ref"] for ref in schemas["global"]["properties"]["strategy"]["anyOf"]}
    assert "llmexp.strategies.qlora.QLoRA.json" in strategies


def test_every_reference_leads_to_a_schema(schemas: dict[str, Any]) -> None:
    for node in schemas["global"]["properties"].values():
        for option in node.get("anyOf", []):
            if option.get("$ref", "").endswith(".json"):
                assert option["$ref"].removesuffix(".json") in schemas
