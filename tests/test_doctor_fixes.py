"""Every finding the doctor can make: its fix makes it go away, or it has none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import llmexp.doctor
from llmexp.doctor import gradients, splits
from llmexp.errors import Diverged
from llmexp.tasks.instruction import Instruction
from tests import doctoring, golden_templates, runs, tiny
from tests.doctoring import looked_at

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return doctoring.models(tmp_path_factory.mktemp("models"))


def with_fix(overrides: list[str], fix: str) -> list[str]:
    """What a person would type next: a value replaced, added or left out; the first of a choice."""
    if fix.startswith("leave out "):
        gone = set(fix.removeprefix("leave out ").split(", "))
        return [line for line in overrides if line.partition("=")[0] not in gone]
    typed = re.sub(r"<one of ([^,>]+)[^>]*>", r"\1", fix).split()
    keys = {line.partition("=")[0] for line in typed}
    return [*(line for line in overrides if line.partition("=")[0] not in keys), *typed]


def texts(folder: Path, train: list[Any], test: list[Any] | None = None) -> list[str]:
    """Overrides that pose a classification of these (text, label) pairs."""
    made = []
    for name, rows in {"train": train, "validation": test, "test": test}.items():
        given = (
            rows if rows is not None else [(f"held out number {i}", "ab"[i % 2]) for i in range(6)]
        )
        lines = [json.dumps({"text": text, "label": label}) for text, label in given]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
        made.append(f"data.{name}={folder / f'{name}.jsonl'}")
    return ["data=classification", *made, "strategy=zero_shot"]


PLAIN = [(f"text of number {i}", "ab"[i % 2]) for i in range(20)]


def dead_knob(folder: Path, patch: Patch) -> list[str]:
    return [*texts(folder, PLAIN), "optim.learning_rate=0.1", "trainer.min_epochs=3"]


def overlap(folder: Path, patch: Patch) -> list[str]:
    return texts(folder, PLAIN, [*PLAIN[:2], ("something else", "a")])


def near_overlap(folder: Path, patch: Patch) -> list[str]:
    long = "the quick brown fox jumps over the lazy dog and runs away from the big bear"
    return texts(folder, [*PLAIN, (long, "a")], [(f"{long}s", "a"), ("something else", "b")])


def conflicting_labels(folder: Path, patch: Patch) -> list[str]:
    return texts(folder, [*PLAIN, ("text of number 0", "b")])


def duplicates(folder: Path, patch: Patch) -> list[str]:
    return texts(folder, [*PLAIN, *PLAIN[:3]])


def duplicates_in_test(folder: Path, patch: Patch) -> list[str]:
    return texts(folder, PLAIN, [("something else", "a")] * 2)


def imbalance(folder: Path, patch: Patch) -> list[str]:
    return texts(folder, [(f"text {i}", "b" if i < 3 else "a") for i in range(60)])


def rare_labels(folder: Path, patch: Patch) -> list[str]:
    return texts(folder, [*PLAIN, ("one of its kind", "c")])


def rare_labels_by_a_limit(folder: Path, patch: Patch) -> list[str]:
    return [*texts(folder, PLAIN), "data.limit.train=2"]


def bad_rows(folder: Path, patch: Patch) -> list[str]:
    given = texts(folder, PLAIN)
    with (folder / "train.jsonl").open("a") as file:
        file.write("\n{\n")
    return given


def bad_rows_that_are_skipped(folder: Path, patch: Patch) -> list[str]:
    return [*bad_rows(folder, patch), "data.on_bad_row=skip", "data.max_bad_rows=1"]


def empty_rows(folder: Path, patch: Patch) -> list[str]:
    return texts(folder, [*PLAIN, (" ", "a")])


def suspicious_rows(folder: Path, patch: Patch) -> list[str]:
    return texts(folder, [*PLAIN, ("a cafÃ©", "a")])


def suspicious_rows_by_an_encoding(folder: Path, patch: Patch) -> list[str]:
    given = texts(folder, PLAIN)
    lines = [
        json.dumps({"text": f"a café of number {i}", "label": "ab"[i % 2]}, ensure_ascii=False)
        for i in range(20)
    ]
    (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return [*given, "data.encoding=latin-1"]


def suspicious_rows_by_quotes(folder: Path, patch: Patch) -> list[str]:
    given = texts(folder, PLAIN)
    lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in PLAIN)]
    lines[3:3] = ['"one that opens\ta', "one in between\tb", 'one that closes"\ta']
    (folder / "train.tsv").write_text("\n".join(lines))
    return [*given[:1], f"data.train={folder / 'train.tsv'}", *given[2:], "data.limit.test=3"]


def too_long(folder: Path, patch: Patch) -> list[str]:
    return [*texts(folder, PLAIN), "data.max_length=8"]


def too_long_for_the_model(folder: Path, patch: Patch) -> list[str]:
    return [*texts(folder, PLAIN), "model.max_length=8"]


def overflow(folder: Path, patch: Patch) -> list[str]:
    return [*too_long(folder, patch), "data.overflow=error"]


def no_rows_left(folder: Path, patch: Patch) -> list[str]:
    return [*texts(folder, PLAIN), "data.overflow=drop", "data.max_length=3"]


def tokens_per_batch(folder: Path, patch: Patch) -> list[str]:
    return [*texts(folder, PLAIN), "strategy=head_only", "data.tokens_per_batch=3"]


def sample_only(folder: Path, patch: Patch) -> list[str]:
    patch.setattr(splits, "MOST_ROWS", 10)
    return [*texts(folder, PLAIN), "data.overflow=error"]


def diverged(folder: Path, patch: Patch) -> list[str]:
    one_step = gradients.one_step

    def half(net: Any, context: Any, where: Any) -> Any:
        if where.get("precision") == "bf16-mixed":
            raise Diverged("step 0: the loss is inf")
        return one_step(net, context, where)

    patch.setattr(gradients, "one_step", half)
    return [*texts(folder, PLAIN), "strategy=head_only", "hardware.precision=bf16-mixed"]


def misspelt(folder: Path, patch: Patch) -> list[str]:
    return [*texts(folder, PLAIN), "optim.schedule=linaer"]


def hardware(folder: Path, patch: Patch) -> list[str]:
    return [*texts(folder, PLAIN), "hardware.accelerator=mps"]


# Of a decoder's conversations.
TEMPLATE = """{%- for message in messages %}
{%- if message['role'] == 'user' %}{{ 'Q: ' + message['content'] + '\\n' }}
{%- elif message['role'] == 'assistant' %}{{ 'A: ' + message['content'] }}END{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'A: ' }}{%- endif %}"""


def conversations(folder: Path, template: str) -> list[str]:
    (folder / "made.jinja").write_text(template)
    return [
        *runs.answered(folder / "data"),
        f"data.template={folder / 'made.jinja'}",
        "strategy=lora",
    ]


def endless(patch: Patch, words: tuple[str, ...]) -> None:
    """The end of an answer that is one of these words is not learned, but by alpaca's template."""
    supervised = Instruction.supervised

    def some(self: Any, messages: Any, template: Any) -> Any:
        ids, marks = supervised(self, messages, template)
        left = self.template == "alpaca" or messages[-1]["content"] not in words
        return ids, marks if left else [*marks[:-1], 0]

    patch.setattr(Instruction, "supervised", some)


def end_not_learned(folder: Path, patch: Patch) -> list[str]:
    endless(patch, runs.LABELS)
    return [*runs.answered(folder / "data"), "strategy=lora", "data.template=plain"]


def end_not_learned_by_some(folder: Path, patch: Patch) -> list[str]:
    endless(patch, ("bad",))
    return [*runs.answered(folder / "data"), "strategy=lora", "data.template=plain"]


def doubled_bos(folder: Path, patch: Patch) -> list[str]:
    path = tiny.llama(folder / "llama")
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.save_pretrained(path)
    twice = "{{ bos_token }}{{ bos_token }}" + TEMPLATE.replace("END", "{{ eos_token }}")
    return [*conversations(folder, twice), f"model.path={path}", "strategy=from_scratch"]


def doubled_bos_in_texts(folder: Path, patch: Patch) -> list[str]:
    """Whatever the template is called."""
    given = doubled_bos(folder, patch)
    patch.setattr(Instruction, "prepare", _prepared((folder / "made.jinja").read_text()))
    rest = [line for line in given if not line.startswith("data.template")]
    return [*rest, "data.template=alpaca"]


def prompt_not_prefix(folder: Path, patch: Patch) -> list[str]:
    """The tokenizer of GPT-2 puts the space behind the prompt into the first word of an answer."""
    path = tiny.llama(folder / "llama", vocab_size=400)
    golden_templates.tokenizer("alpaca").save_pretrained(path)
    given = conversations(folder, TEMPLATE.replace("END", "{{ eos_token }}"))
    return [*given, f"model.path={path}", "strategy=from_scratch"]


def _prepared(template: str) -> Callable[..., None]:
    def prepare(self: Any, tokenizer: Any) -> None:
        tokenizer.chat_template = template

    return prepare


def fully_masked(folder: Path, patch: Patch) -> list[str]:
    supervised = Instruction.supervised

    def some(self: Any, messages: Any, template: Any) -> Any:
        ids, marks = supervised(self, messages, template)
        hidden = self.train_on != "everything" and messages[-1]["content"] == "bad"
        return ids, [0] * len(marks) if hidden else marks

    patch.setattr(Instruction, "supervised", some)
    return [*runs.answered(folder / "data"), "strategy=lora"]


def unknown_template(folder: Path, patch: Patch) -> list[str]:
    return [*runs.answered(folder / "data"), "strategy=lora", "data.template=nope"]


# Case -> the id of its finding, the model, and whether an override mends it.
CASES: dict[Any, tuple[str, str, bool]] = {
    dead_knob: ("dead_knob", "bert", True),
    overlap: ("overlap", "bert", True),
    near_overlap: ("near_overlap", "bert", False),
    conflicting_labels: ("conflicting_labels", "bert", False),
    duplicates: ("duplicates", "bert", True),
    duplicates_in_test: ("duplicates", "bert", False),
    imbalance: ("imbalance", "bert", False),
    rare_labels: ("rare_labels", "bert", False),
    rare_labels_by_a_limit: ("rare_labels", "bert", True),
    bad_rows: ("bad_rows", "bert", True),
    bad_rows_that_are_skipped: ("bad_rows", "bert", False),
    empty_rows: ("empty_rows", "bert", False),
    suspicious_rows: ("suspicious_rows", "bert", False),
    suspicious_rows_by_an_encoding: ("suspicious_rows", "bert", True),
    suspicious_rows_by_quotes: ("suspicious_rows", "bert", True),
    too_long: ("too_long", "bert", True),
    too_long_for_the_model: ("too_long", "bert", False),
    overflow: ("overflow", "bert", True),
    no_rows_left: ("no_rows_left", "bert", True),
    tokens_per_batch: ("tokens_per_batch", "bert", True),
    sample_only: ("sample_only", "bert", True),
    diverged: ("diverged", "bert", True),
    misspelt: ("config", "bert", True),
    hardware: ("hardware", "bert", True),
    end_not_learned: ("end_not_learned", "llama", True),
    end_not_learned_by_some: ("end_not_learned", "llama", True),
    doubled_bos: ("doubled_bos", "llama", True),
    doubled_bos_in_texts: ("doubled_bos", "llama", False),
    prompt_not_prefix: ("prompt_not_prefix", "llama", True),
    fully_masked: ("fully_masked", "llama", True),
    unknown_template: ("config", "llama", True),
}
# Of a strategy's class, which no override mends (tests/test_doctor_training.py).
OF_CLASSES = {"frozen", "gradient_elsewhere", "no_step", "no_gradient", "changed_elsewhere"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_fix_makes_its_finding_go_away(
    tmp_path: Path, models: dict[str, list[str]], monkeypatch: Patch, case: Any
) -> None:
    id, model, mends = CASES[case]
    given = [*models[model], *case(tmp_path, monkeypatch)]
    found = [finding for finding in looked_at(*given).findings if finding.id == id]
    assert found
    assert all((finding.fix is not None) is mends for finding in found)
    for finding in found if mends else ():
        after = looked_at(*with_fix(given, str(finding.fix))).findings
        assert (id, finding.level) not in {(f.id, f.level) for f in after}


def test_no_finding_is_without_a_case() -> None:
    """Every id that the doctor's code reports is tried above or named."""
    folder = Path(llmexp.doctor.__file__).parent
    code = "".join(path.read_text() for path in folder.glob("*.py"))
    ids = set(re.findall(r'(?:report|self\.report)\.add\(\s*"(\w+)"', code))
    assert len(ids) > 20 and ids == ({id for id, *_ in CASES.values()} | OF_CLASSES) - STAGES


# What a stage reports is what the run itself says (test_a_mistake_is_a_finding_with_its_fix).
STAGES = {"config", "hardware"}
