"""Features are a function of the text alone, and a stored classifier repeats its predictions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

import llmexp
from llmexp.cache.distinct import Distinct
from llmexp.classifiers import SKLEARN, Name, needs_calibration
from llmexp.data.features import extract
from llmexp.errors import UserError
from llmexp.models import HFModel
from llmexp.modules.sklearn import class_probabilities
from llmexp.nets.pooling import natural, pool
from tests import fitted, nets, tiny


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_padding_changes_no_feature(tmp_path: Path, family: str, pooling: Any) -> None:
    net = AutoModel.from_pretrained(nets.FAMILIES[family](tmp_path / "net"))
    rows = [{"input_ids": list(range(3, 3 + n)), "index": n} for n in (4, 11, 7)]
    together, alone = torch.empty(3, 32), torch.empty(3, 32)
    extract(net, Distinct(rows), pooling, 0, together)
    for i, row in enumerate(rows):
        extract(net, Distinct([row]), pooling, 0, alone[i : i + 1])
    assert fitted.close(together, alone)


def test_pooling_reads_real_tokens_only() -> None:
    hidden = torch.arange(12.0).view(2, 3, 2)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool(hidden, mask, "cls").tolist() == [[0, 1], [6, 7]]
    assert pool(hidden, mask, "last").tolist() == [[2, 3], [10, 11]]
    assert pool(hidden, mask, "mean").tolist() == [[1, 2], [8, 9]]


def test_pooling_is_what_suits_the_model(tmp_path: Path) -> None:
    for make, expected in ((tiny.bert, "mean"), (tiny.llama, "last"), (tiny.gpt2, "last")):
        model = HFModel(path=str(make(tmp_path / make.__name__)))
        assert natural(model, model.config()) == expected
    assert natural(HFModel(path="x", pooling="cls"), model.config()) == "cls"


@pytest.mark.parametrize("classifier", ["linear", "mlp", "random_forest"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_memory_and_disk_give_the_same(tmp_path: Path, family: str, classifier: str) -> None:
    folder = nets.FAMILIES[family](tmp_path / "net")
    strategy = fitted.features(classifier=classifier)
    runs = [fitted.fit(fitted.context(folder, strategy, cache=c)) for c in (False, True, True)]
    assert [run.data.prefix.hit for run in runs] == [False, False, True]
    for run in runs[1:]:
        assert fitted.close(run.losses, runs[0].losses)
        assert run.module.test_metrics == pytest.approx(runs[0].module.test_metrics, abs=1e-5)
        assert [a["prediction"] for a in run.module.answers] == [
            a["prediction"] for a in runs[0].module.answers
        ]
    assert not (tmp_path / "cache").is_dir() or runs[1].data.prefix.seconds > 0


@pytest.mark.parametrize("classifier", ["linear", "mlp", *SKLEARN])
def test_an_exported_classifier_repeats_its_predictions(tmp_path: Path, classifier: str) -> None:
    made = fitted.context(tiny.bert(tmp_path / "net"), fitted.features(classifier=classifier))
    module = fitted.fit(made).module
    made.strategy.export(module, made)
    again = llmexp.load(made.folder / "model").predict([row["text"] for row in made.examples.test])
    assert len(again) == len(module.answers)
    for now, then in zip(again, module.answers, strict=True):
        assert now["scores"] == pytest.approx(then["scores"], abs=1e-5)
        assert now["prediction"] == then["prediction"]
    files = {path.name for path in (made.folder / "model").iterdir()}
    assert not any(name.endswith((".pkl", ".pickle", ".joblib", ".bin")) for name in files)
    assert ("classifier.skops" in files) == (classifier in SKLEARN)
    facts = json.loads((made.folder / "model" / "llmexp.json").read_text())
    assert facts["predictor"] == "features" and facts["pooling"] == "mean"


def test_texts_that_differ_in_a_word_are_learned(tmp_path: Path) -> None:
    task, examples = fitted.texts(48)
    for rows in (examples.train, examples.validation, examples.test):
        for i, row in enumerate(rows):
            row |= {"text": "the bear runs" if i % 2 else "what is the list", "label": "fine"}
            row["label"] = "good" if i % 2 else "bad"
    examples.labels = ["bad", "good"]
    for classifier in ("linear", "mlp", "logistic_regression"):
        made = fitted.context(
            tiny.bert(tmp_path / classifier),
            fitted.features(classifier=classifier),
            (task, examples),
        )
        assert fitted.fit(made, epochs=5).module.test_metrics["test/accuracy"] == 1.0


def test_what_was_seen_is_what_is_standardised(tmp_path: Path) -> None:
    done = fitted.fit(fitted.context(tiny.bert(tmp_path / "net"), fitted.features()))
    train = done.data.features["train"]
    assert fitted.close(done.module.net.mean, train.mean(0))
    scaled = (train - done.module.net.mean) / done.module.net.deviation
    assert fitted.close(scaled.std(0, correction=0), torch.ones(32), 1e-3)


def test_scikit_learn_is_fitted_once_on_all_rows(tmp_path: Path) -> None:
    made = fitted.context(tiny.bert(tmp_path / "net"), fitted.features(classifier="knn"))
    done = fitted.fit(made, epochs=5)
    assert done.module.classifier.n_samples_fit_ == len(made.examples.train)
    assert done.module.trainer.global_step == 1
    assert done.module.tokens_trained == sum(map(len, map(_ids, done.data.encoded["train"].rows)))


def _ids(row: dict[str, Any]) -> list[int]:
    ids: list[int] = row["input_ids"]
    return ids


def test_a_scikit_learn_checkpoint_holds_the_classifier(tmp_path: Path) -> None:
    made = fitted.context(tiny.bert(tmp_path / "net"), fitted.features(classifier="lda"))
    module = fitted.fit(made).module
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "last.ckpt")
    other = made.strategy.module(nets.adapted(made), made)
    other.on_load_checkpoint(torch.load(tmp_path / "last.ckpt", weights_only=True))
    features = np.random.default_rng(0).normal(size=(3, 32))
    assert (module.classifier.predict(features) == other.classifier.predict(features)).all()


def test_a_class_without_rows_gets_the_least_probability() -> None:
    class Two:
        classes_ = np.array([0, 2])

        def predict_proba(self, x: Any) -> Any:
            return np.array([[1.0, 0.0]])

    found = class_probabilities(Two(), torch.zeros(1, 4), 3)
    assert found.argmax() == 0 and (found > 0).all() and fitted.close(found.sum(), 1.0)


def test_calibration_is_said(tmp_path: Path) -> None:
    assert needs_calibration("linear_svm") and not needs_calibration("knn")
    made = fitted.context(tiny.bert(tmp_path / "net"), fitted.features(classifier="linear_svm"))
    fitted.fit(made, epochs=1)
    assert any("calibration" in note for note in made.examples.notes)


def test_names_and_table_agree() -> None:
    assert set(Name.__args__) == {"linear", "mlp", *SKLEARN}  # type: ignore[attr-defined]


def test_mistakes_are_sentences(tmp_path: Path) -> None:
    folder = tiny.gpt2(tmp_path / "net")
    made = fitted.context(folder, fitted.features(), nets.instruction())
    found = made.strategy.check(made.model, made.task, None)  # type: ignore[arg-type]
    assert len(found) == 1 and "instruction" in found[0]
    strategy = fitted.features(classifier="random_forest", options={"n_estimator": 5})
    with pytest.raises(UserError, match="did you mean n_estimators"):
        strategy.check_targets(made)
    with pytest.raises(UserError, match=r"strategy\.options"):
        fitted.features(options={"C": 1.0}).check_targets(made)


def test_only_the_classifier_counts_as_trained(tmp_path: Path) -> None:
    made = fitted.context(tiny.bert(tmp_path / "net"), fitted.features())
    net = nets.adapted(made)
    assert {n for n, p in net.named_parameters() if p.requires_grad} == {
        "classifier.body.weight",
        "classifier.body.bias",
    }
    assert dataclasses.is_dataclass(made.strategy)
