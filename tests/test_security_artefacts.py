"""A folder from a stranger is data: weights, configs, templates and rows in it never run."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import llmexp
from llmexp.artefact import code_in
from llmexp.configure.compose import compose_jobs, open_keys
from llmexp.configure.trust import is_trusted
from llmexp.data import templates
from llmexp.data.sources import load_examples
from llmexp.errors import UserError
from llmexp.jobs import job
from llmexp.models import HFModel
from llmexp.predict.load import PREDICTORS
from llmexp.tasks.classification import Classification
from tests import tiny
from tests.traps import Trap, laid

MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trap:
    return laid(tmp_path, monkeypatch)


class Bomb:
    """Pickles into a call that makes the canary."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def changed(path: Path, **fields: Any) -> None:
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**known, **fields}))


def loaded(folder: Path, auto: Any = AutoModelForCausalLM) -> Any:
    """Everything a run loads from a checkpoint."""
    model = HFModel(path=str(folder))
    complaints = model.check()
    if complaints:
        raise UserError(complaints[0])
    tokenizer = model.load_tokenizer()
    templates.install(tokenizer, "auto")
    templates.Template(tokenizer).render(MESSAGES)
    return model.load(auto, model.config())


def bin_bomb(folder: Path, trap: Trap) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(trap.canary)))


def torch_bomb(folder: Path, trap: Trap) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1), "bomb": Bomb(trap.canary)}, folder / "pytorch_model.bin")


def renamed_bomb(folder: Path, trap: Trap) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(trap.canary)))


def new_code(folder: Path, trap: Trap) -> None:
    code = f"open({str(trap.canary)!r}, 'w')\nclass Config: pass\n"
    (folder / "modeling_evil.py").write_text(code)
    mapped = {"AutoConfig": "modeling_evil.Config", "AutoModelForCausalLM": "modeling_evil.Net"}
    changed(folder / "config.json", model_type="evil", auto_map=mapped)


def hub_kernel(folder: Path, trap: Trap) -> None:
    changed(folder / "config.json", _attn_implementation="evil/kernel")


def template(text: str) -> Callable[[Path, Trap], None]:
    def put(folder: Path, trap: Trap) -> None:
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        meant = text.replace("CANARY", str(trap.canary))
        changed(folder / "tokenizer_config.json", chat_template=meant)

    return put


TAMPERED = {
    "a pickle for weights": (bin_bomb, "not a usable checkpoint"),
    "a torch file with more than weights": (torch_bomb, "not a usable checkpoint"),
    "a pickle called safetensors": (renamed_bomb, "not a usable checkpoint"),
    "a model of its own code": (new_code, "not a usable checkpoint"),
    "a kernel from the hub": (hub_kernel, "_attn_implementation: a config may not say where code"),
    "a class in config.json": (
        lambda folder, trap: changed(folder / "config.json", x={"_target_": "os.system"}),
        "x._target_: a checkpoint's config is data",
    ),
    "trust asked for by a tokenizer": (
        lambda folder, trap: changed(folder / "tokenizer_config.json", trust_remote_code=True),
        "trust_remote_code: a config may not say where code",
    ),
    "no JSON": (lambda folder, trap: (folder / "config.json").write_text("{"), "not valid JSON"),
    "a list for a config": (
        lambda folder, trap: (folder / "config.json").write_text("[]"),
        "not an object",
    ),
    "a config of nonsense": (
        lambda folder, trap: changed(folder / "config.json", num_hidden_layers="many"),
        "not a usable checkpoint",
    ),
    "a template that reaches for os": (
        template("{{ cycler.__init__.__globals__.os.system('touch CANARY') }}"),
        "data.template: the template refuses",
    ),
    "a template that walks the classes": (
        template("{{ ''.__class__.__mro__[1].__subclasses__()[0]('CANARY') }}"),
        "data.template: the template refuses",
    ),
    "a template that formats its way out": (
        template("{{ '{0.__class__.__init__.__globals__}'.format(messages.append) }}"),
        "data.template: the template refuses",
    ),
    "a template that changes what it is given": (
        template("{{ messages.append(1) }}"),
        "data.template: the template refuses",
    ),
    "a template that divides by zero": (
        template("{{ 1 / 0 }}"),
        "data.template: the template refuses",
    ),
    "a template that is none": (template("{% for"), "data.template: the template refuses"),
    "a template with another file": (
        template("{% include '/etc/passwd' %}"),
        "data.template: the template refuses",
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_checkpoint_is_one_sentence(
    name: str,
    trap: Trap,
    tmp_path: Path,
) -> None:
    folder = tiny.llama(tmp_path / "llama")
    tamper, says = TAMPERED[name]
    tamper(folder, trap)
    with pytest.raises(UserError) as caught:
        loaded(folder)
    trap.assert_untouched()
    assert says in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_code_beside_a_known_model_is_left_alone(trap: Trap, tmp_path: Path) -> None:
    """Many honest checkpoints carry code that transformers has by now: theirs is not run."""
    folder = tiny.llama(tmp_path / "llama")
    new_code(folder, trap)
    changed(folder / "config.json", model_type="llama")
    changed(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": [None, "modeling_evil.Tokenizer"]},
    )
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(f"open({str(trap.canary)!r}, 'w')\n")
    net = loaded(folder)
    assert type(net).__module__.startswith("transformers.models.llama")
    trap.assert_untouched()


def test_honest_torch_weights_are_read(tmp_path: Path) -> None:
    """safetensors first, plain tensors second; there is no third."""
    folder = tiny.llama(tmp_path / "llama")
    net = loaded(folder)
    (folder / "model.safetensors").unlink()
    torch.save(net.state_dict(), folder / "pytorch_model.bin")
    again = loaded(folder)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def exported(folder: Path, predictor: str = "classifier", **more: Any) -> Path:
    """What a run would have left as `model/`."""
    tiny.bert(folder)
    facts = {"schema": 1, "predictor": predictor, "task": "classification", "labels": ["a", "b"]}
    base = {"path": str(folder)}
    (folder / "llmexp.json").write_text(
        json.dumps({**facts, "base": base, "max_length": 32, "data": {}, **more})
    )
    return folder


def adapters(folder: Path, **fields: Any) -> None:
    config = {"peft_type": "LORA", "task_type": "SEQ_CLS", "target_modules": ["query"]}
    changed(folder / "adapter_config.json", **{**config, "r": 2, **fields})


def adapter_bomb(folder: Path, trap: Trap) -> None:
    adapters(folder)
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(trap.canary)))


def facts(**fields: Any) -> Callable[[Path, Trap], None]:
    return lambda folder, trap: changed(folder / "llmexp.json", **fields)


def sklearn_bomb(folder: Path, trap: Trap) -> None:
    from sklearn.preprocessing import FunctionTransformer
    from skops.io import dump

    changed(folder / "llmexp.json", predictor="features", pooling="mean", classifier={"name": "x"})
    dump(FunctionTransformer(os.system), folder / "classifier.skops")


def joblib_bomb(folder: Path, trap: Trap) -> None:
    changed(folder / "llmexp.json", predictor="features", pooling="mean", classifier={"name": "x"})
    (folder / "classifier.skops").write_bytes(pickle.dumps(Bomb(trap.canary)))


PREDICTED = {
    "adapters that are a pickle": adapter_bomb,
    "adapters that import": lambda folder, trap: adapters(
        folder, megatron_config={"a": 1}, megatron_core="evil"
    ),
    "a class in llmexp.json": facts(x={"_target_": "os.system"}),
    "a class for a base": facts(base={"_target_": "os.system"}),
    "another loader": facts(predictor="os:system"),
    "a loader that is no text": facts(predictor=["classifier"]),
    "labels that are none": facts(labels=3),
    "no base": facts(base=None),
    "a base that is a list": facts(base=[]),
    "a base of another kind": facts(base={"path": 3}),
    "settings twice": facts(predictor="generator", data={"train": "/etc/passwd"}),
    "scikit-learn around a function": sklearn_bomb,
    "scikit-learn as a pickle": joblib_bomb,
    "a pickle for weights": bin_bomb,
}


@pytest.mark.parametrize("name", PREDICTED)
def test_a_tampered_export_is_one_sentence(name: str, trap: Trap, tmp_path: Path) -> None:
    folder = exported(tmp_path / "model")
    PREDICTED[name](folder, trap)
    with pytest.raises(UserError) as caught:
        llmexp.load(folder)
    trap.assert_untouched()
    assert len(str(caught.value).splitlines()) == 1, caught.value


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_an_export_without_its_facts_is_one_sentence(predictor: str, tmp_path: Path) -> None:
    folder = exported(tmp_path / "model")
    (folder / "llmexp.json").write_text(json.dumps({"schema": 1, "predictor": predictor}))
    with pytest.raises(UserError):
        llmexp.load(folder)


def test_the_environment_is_not_read_for_an_artefact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_API_KEY", "canary-0123")
    folder = exported(tmp_path / "model", "features", base={"path": "${oc.env:LAB_API_KEY}"})
    with pytest.raises(UserError) as caught:
        llmexp.load(folder)
    assert "canary" not in str(caught.value)


RECORDED = {
    "a callback": "callbacks: {x: {_target_: evil.Callback}}\n",
    "a model": "model: {_target_: evil.Model}\n",
    "a Python tag": "name: !!python/object/apply:os.system [touch CANARY]\n",
    "no mapping": "- 1\n",
    "nothing": "",
    "a launch that is none": "launch: 3\n",
    "a launch of other types": "launch: {overrides: 3, sweep: [a]}\n",
    "a launch that made the folder": "launch: {made: true, sweep: false}\n",
    "no YAML": "a: [1\n",
    "code that somebody trusted": (
        "model: {_target_: llmexp.models.HFModel, path: a/b, trust_remote_code: true,\n"
        f"        revision: {'0' * 40}}}\n"
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_the_config_of_somebody_elses_run_is_one_sentence_or_a_list_of_them(
    name: str,
    trap: Trap,
    tmp_path: Path,
) -> None:
    (tmp_path / "run").mkdir()
    text = RECORDED[name].replace("CANARY", str(trap.canary))
    (tmp_path / "run" / "config.yaml").write_text(text)
    with pytest.raises(UserError):
        job.main([str(tmp_path / "run")])
    trap.assert_untouched()
    assert (tmp_path / "run" / "config.yaml").read_text() == text
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"config.yaml", ".lock"}


def test_a_recorded_tree_is_not_resolved(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: ${oc.env:HOME}\nlaunch: {sweep: false}\n")
    assert job.read_config(tmp_path)[0] == {"name": "${oc.env:HOME}"}
    assert OmegaConf.load(tmp_path / "config.yaml").name == os.environ["HOME"]


def test_rows_that_are_pickles_are_rows_of_bytes(trap: Trap, tmp_path: Path) -> None:
    """Arrow once unpickled the types that a parquet file names."""
    bomb = pickle.dumps(Bomb(trap.canary))
    marks = {
        "ARROW:extension:name": b"arrow.py_extension_type",
        "ARROW:extension:metadata": bomb,
    }
    fields = [pa.field("text", pa.string(), metadata=marks), pa.field("label", pa.string())]
    table = pa.table(
        [[str(i) for i in range(40)], [str(i % 2) for i in range(40)]], pa.schema(fields)
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    try:
        load_examples(Classification(train=str(tmp_path / "rows.parquet")))
    except UserError as error:
        assert "rows.parquet" in str(error)
    trap.assert_untouched()


def test_a_checkpoint_of_a_run_is_plain_data(trap: Trap, tmp_path: Path) -> None:
    """What Lightning resumes from is read as weights and numbers, or not at all."""
    from pytorch_lightning.plugins.io import TorchCheckpointIO

    buffer = io.BytesIO()
    torch.save({"state_dict": {}, "bomb": Bomb(trap.canary)}, buffer)
    (tmp_path / "last.ckpt").write_bytes(buffer.getvalue())
    with pytest.raises(pickle.UnpicklingError):
        TorchCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    trap.assert_untouched()


def test_code_of_a_checkpoint_needs_a_commit_and_a_person_and_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit = "0123456789" * 4
    monkeypatch.delenv("LLMEXP_ALLOW", raising=False)
    monkeypatch.delenv("LLMEXP_TRUSTED_CODE", raising=False)
    model = HFModel(path="someone/model", revision=commit, trust_remote_code=True)
    assert "command line" in model.check()[0]
    monkeypatch.setenv("LLMEXP_ALLOW", "someone/model")
    assert model.check() == []
    assert model.remote_code() == f"someone/model@{commit}"
    assert HFModel(path="someone/model").remote_code() is None
    moving = HFModel(path="someone/model", revision="main", trust_remote_code=True)
    assert "40 hex digits" in moving.check()[0]


def test_a_sweep_may_run_the_code_of_several_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMEXP_ALLOW", raising=False)
    monkeypatch.setenv("LLMEXP_TRUSTED_CODE", "")
    both = ["ab" * 20, "cd" * 20]
    words = ["tracking=none", "model=local", "model.path=someone/model"]
    words += ["model.trust_remote_code=true", f"model.revision={','.join(both)}"]
    assert len(compose_jobs(open_keys(words), "run", None, True)) == 2
    for revision in both:
        assert is_trusted("someone/model", revision)
    assert not is_trusted("someone/model", "ef" * 20)
    assert not is_trusted("another/model", both[0])


def test_fields_that_name_code_are_found_at_any_depth() -> None:
    deep = {"a": [{"b": {"_target_": "x"}}], "text_config": {"_attn_implementation": "a/b"}}
    assert [key for key, _ in code_in(deep)] == [
        "a[0].b._target_",
        "text_config._attn_implementation",
    ]
    assert list(code_in({"attn_implementation": "sdpa", "trust_remote_code": False})) == []


def test_the_honest_export_loads(tmp_path: Path) -> None:
    folder = exported(tmp_path / "model")
    assert {row["prediction"] for row in llmexp.load(folder).predict(["a", "b"])} <= {"a", "b"}
    assert AutoModelForSequenceClassification.from_pretrained(folder) is not None
