"""Answers are learned where the template writes them, whatever else the conversation says."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmexp.data.templates import Template
from llmexp.errors import UserError
from llmexp.tasks.base import IGNORE
from llmexp.tasks.instruction import Instruction
from tests.golden_templates import FAMILIES, TEMPLATES, tokenizer

SYSTEM = {"role": "system", "content": "Say negative or positive: negative."}
# What a family writes behind an answer; alpaca's has EOS behind the last one alone.
ENDS = {
    "llama-2": " </s>",
    "llama-3": "<|eot_id|>",
    "mistral": "</s>",
    "chatml": "<|im_end|>",
    "gemma": "<end_of_turn>",
    "alpaca": "",
}
CHAT = (
    "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + END }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]OPEN' }}{% endif %}"
)


def asked(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def chat(end: str = "eos_token", opened: str = "") -> str:
    return CHAT.replace("END", end).replace("OPEN", opened)


def made(template: str) -> Any:
    tokens = tokenizer("alpaca")
    tokens.chat_template = template
    return tokens


def learned(tokens: Any, messages: list[dict[str, str]], **fields: Any) -> list[str]:
    """The supervised stretches as text, parted by what is not learned."""
    task = Instruction(train="made.jsonl", **fields)
    row = task.encode([{"messages": messages}], tokens, 2000, []).rows[0]
    found: list[list[int]] = [[]]
    for label in row["labels"]:
        if label != IGNORE:
            found[-1].append(label)
        elif found[-1]:
            found.append([])
    return [tokens.decode(part) for part in found if part]


@pytest.mark.parametrize("opening", [[], [SYSTEM]], ids=["bare", "system"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_that_others_quote_is_learned_in_its_own_place(
    family: str, opening: list[dict[str, str]]
) -> None:
    """Each question quotes its answer, and each answer the next."""
    messages = [
        *opening,
        *asked("Is this positive or negative: bad film", "negative, not positive"),
        *asked("Is this negative or positive: good film", "positive"),
        *asked("positive", "positive"),
    ]
    if family == "gemma" and opening:
        messages[-1]["content"] = SYSTEM["content"]
    found = learned(tokenizer(family), messages, template=str(TEMPLATES / f"{family}.jinja"))
    answers = [turn["content"] for turn in messages if turn["role"] == "assistant"]
    expected = [answer + ENDS[family] for answer in answers]
    if family == "alpaca":
        expected[-1] += "</s>"
    assert [text.strip() for text in found] == expected


@settings(max_examples=25, deadline=None)
@given(
    words=st.lists(
        st.text("ab\ue000 \n[/INST]</s>#", min_size=1, max_size=12).filter(str.strip),
        min_size=2,
        max_size=6,
    ).filter(lambda words: len(words) % 2 == 0),
    system=st.booleans(),
)
@pytest.mark.parametrize("family", FAMILIES)
def test_spans_are_the_answers_whatever_is_said(
    family: str, words: list[str], system: bool
) -> None:
    tokens = tokenizer(family)
    Instruction(train="", template=str(TEMPLATES / f"{family}.jinja")).prepare(tokens)
    template = Template(tokens)
    messages = [SYSTEM] if system else []
    for question, answer in zip(words[::2], words[1::2], strict=True):
        messages += asked(question, answer)
    text = template.render(messages)
    spans = template.answer_spans(messages, text)
    shown = [text[start:end].strip() for start, end in spans]
    assert [part.removesuffix(ENDS[family]).strip() for part in shown] == [
        answer.strip() for answer in words[1::2]
    ]
    assert all(part.endswith(ENDS[family]) for part in shown)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_a_prompt_that_opens_a_thought_leaves_the_question_alone() -> None:
    """As DeepSeek-R1: what is asked is no beginning of what was said."""
    tokens = made(chat(opened="<think>\\n"))
    one = asked("Is this positive or negative: bad film", "negative")
    assert learned(tokens, one) == ["negative</s>"]
    more = [*one, *asked("negative?", "positive, not negative")]
    assert learned(tokens, more) == ["negative</s>", "positive, not negative</s>"]


def test_an_end_that_only_the_last_turn_has_is_no_end_of_an_earlier_one() -> None:
    tokens = made(chat("(eos_token if loop.last else '')"))
    messages = [*asked("one", "first"), *asked("two", "second"), *asked("three", "third")]
    assert learned(tokens, messages) == ["first", "second", "third</s>"]
    _, turns = Template(tokens).encode(messages)
    assert all(sum(column) <= 1 for column in zip(*turns, strict=True))


def test_an_end_that_only_earlier_turns_have_is_made_up_for() -> None:
    tokens = made(chat("(eos_token if not loop.last else '')"))
    messages = [*asked("one", "first"), *asked("two", "second")]
    assert learned(tokens, messages)[-1] == "second</s>"
    longer = made(chat("(eos_token if messages|length == 2 else '')"))
    assert learned(longer, messages) == ["first", "second</s>"]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (chat(opened="<think>").replace("m['content']", "m['content'] | upper"), "changes an"),
        (chat().replace("m['content']", "m['content'] + m['content']"), "2 times, not once"),
        (chat().replace("m['content']", "(m['content'] if loop.last else '')"), "0 times, not"),
    ],
    ids=["changed", "twice", "left out"],
)
def test_a_template_whose_answers_have_no_one_place_is_refused(template: str, says: str) -> None:
    messages = [*asked("the first?", "first"), *asked("the second?", "second")]
    with pytest.raises(UserError, match=says):
        learned(made(template), messages)


@pytest.mark.parametrize("bos", ["<s>", "{{ bos_token }}", "\n{{ bos_token }}", ""])
def test_a_file_that_writes_bos_by_its_text_gets_no_second(tmp_path: Any, bos: str) -> None:
    file = tmp_path / "own.jinja"
    file.write_text(bos + chat())
    tokens = tokenizer("alpaca")
    task = Instruction(train="made.jsonl", template=str(file))
    row = task.encode([{"messages": asked("one", "first")}], tokens, 500, []).rows[0]
    assert row["input_ids"].count(tokens.bos_token_id) == 1
    assert Template(tokens).prompt_ids(asked("one", "")[:1]).count(tokens.bos_token_id) == 1


@pytest.mark.parametrize(("opened", "otherwise"), [("A:", 0), ("A:\\n", 0), ("A: ", 1)])
def test_a_prompt_that_training_does_not_hold_is_noted(opened: str, otherwise: int) -> None:
    """The space behind a prompt is part of the next word in training, as GPT-2 cuts words."""
    turn = "{{ ('OPEN' if m['role'] == 'assistant' else 'Q:') + m['content'] + eos_token }}"
    template = "{% for m in messages %}" + turn + "{% endfor %}"
    template += "{% if add_generation_prompt %}{{ 'OPEN' }}{% endif %}"
    tokens, task = made(template.replace("OPEN", opened)), Instruction(train="made.jsonl")
    rows = [{"messages": asked("Name it.", "a river")}]
    assert task.asked_otherwise(rows, tokens) == len(task.remarks(tokens)) == otherwise
