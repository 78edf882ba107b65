"""Templates of six families and our own: the tokens read and learned, and BOS where it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from llmexp.data.module import TokenData
from llmexp.data.templates import NAMES, Template
from llmexp.strategies.full_finetune import FullFinetune
from llmexp.tasks.base import IGNORE, Examples
from tests import nets, runs, tiny
from tests.golden_templates import (
    CHATS,
    FAMILIES,
    GOLDEN,
    MODES,
    SHIPPED,
    SNAPSHOTS,
    snapshot,
    task,
    tokenizer,
)

EVERY = [(family, chat) for family in SNAPSHOTS for chat in CHATS]


def test_every_shipped_template_has_a_snapshot() -> None:
    assert set(NAMES) == set(SHIPPED)


@pytest.mark.parametrize("family", SNAPSHOTS)
def test_tokens_and_labels_are_those_of_the_golden_file(family: str) -> None:
    """Where a change is meant: python -m tests.golden_templates, then read what git shows."""
    assert snapshot(family) == (GOLDEN / f"{family}.txt").read_text(encoding="utf-8")


def openings(family: str, chat: str) -> int:
    """BOS of a conversation: one, save that Llama 2's template writes one for each exchange."""
    users = sum(turn["role"] == "user" for turn in CHATS[chat])
    return {"chatml": 0, "llmexp-chatml": 0, "llama-2": users}.get(family, 1)


def whole(made: Any, family: str, chat: str, mode: str = "answers") -> list[int]:
    """Every token of the conversation: what is read, and the last one to be predicted."""
    row = task(family, mode).encode([{"messages": CHATS[chat]}], made, 500, []).rows[0]
    return [*row["input_ids"], row["labels"][-1]]


@pytest.mark.parametrize(("family", "chat"), EVERY)
def test_training_asking_and_the_exported_tokenizer_agree_on_bos_and_all_else(
    tmp_path: Path, family: str, chat: str
) -> None:
    made, messages = tokenizer(family), CHATS[chat]
    ids = whole(made, family, chat)
    assert all(whole(made, family, chat, mode) == ids for mode in MODES)
    count = openings(family, chat)
    asked = Template(made).prompt_ids(messages[:-1])
    if made.bos_token_id is not None:
        assert ids.count(made.bos_token_id) == asked.count(made.bos_token_id) == count
        assert ids[0] == asked[0] == made.bos_token_id
    assert ids[: len(asked)] == asked
    made.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert list(again.apply_chat_template(messages)["input_ids"])[: len(ids) - 1] == ids[:-1]
    served = again.apply_chat_template(messages[:-1], add_generation_prompt=True)
    assert list(served["input_ids"]) == asked


@pytest.mark.parametrize("family", FAMILIES)
def test_evaluation_reads_what_training_reads(tmp_path: Path, family: str) -> None:
    net = tiny.llama(tmp_path / "net", vocab_size=400)
    tokenizer(family).save_pretrained(net)
    rows = [{"messages": messages} for messages in CHATS.values()]
    made = nets.context(net, FullFinetune(), (task(family), Examples(rows, rows, rows)))
    data = TokenData(made)
    data.setup("fit")
    train, *others = (data.encoded[n].rows for n in ("train", "validation", "test"))
    assert all(other == train for other in others)
    bos = made.tokenizer.bos_token_id
    for row, chat in zip(train, CHATS, strict=True):
        assert row["input_ids"].count(bos) == openings(family, chat)


@pytest.mark.parametrize("family", SNAPSHOTS)
def test_an_answer_is_asked_for_where_it_was_learned(family: str) -> None:
    """The first label of the last answer stands on the last token of the prompt."""
    made = tokenizer(family)
    for chat, messages in CHATS.items():
        row = task(family, "last_answer").encode([{"messages": messages}], made, 500, []).rows[0]
        first = next(t for t, label in enumerate(row["labels"]) if label != IGNORE)
        assert first == len(Template(made).prompt_ids(messages[:-1])) - 1, chat
        assert row["labels"][-1] in Template(made).stop_ids()


@pytest.mark.parametrize(
    ("family", "strategy"),
    [("llama-3", "full_finetune"), ("alpaca", "full_finetune"), ("llama-3", "lora")],
)
def test_the_exported_folder_renders_as_was_trained(
    tmp_path: Path, family: str, strategy: str
) -> None:
    net = tiny.llama(tmp_path / "net", vocab_size=400, max_position_embeddings=512)
    tokenizer(family).save_pretrained(net)
    runs.finished(
        tmp_path / "run",
        *runs.answered(tmp_path / "data"),
        "model=local",
        f"model.path={net}",
        f"strategy={strategy}",
        f"data.template={task(family).template}",
        "data.max_length=256",
    )
    exported = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    trained = tokenizer(family)
    for chat, messages in CHATS.items():
        ids = whole(trained, family, chat)
        assert list(exported.apply_chat_template(messages)["input_ids"])[: len(ids) - 1] == ids[:-1]
        served = exported.apply_chat_template(messages[:-1], add_generation_prompt=True)
        assert list(served["input_ids"]) == Template(trained).prompt_ids(messages[:-1])
