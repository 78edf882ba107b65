"""Exactly the answers are learned, exactly the prompts are asked, and nothing is counted twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

from llmexp.data.templates import Template
from llmexp.errors import UserError
from llmexp.models import HFModel
from llmexp.predict.predictors import answers
from llmexp.tasks.base import IGNORE, Examples
from llmexp.tasks.generation import Generation
from llmexp.tasks.instruction import Instruction
from tests import tiny

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "the quick fox?"},
    {"role": "assistant", "content": "jumps over"},
    {"role": "user", "content": "and the bear?"},
    {"role": "assistant", "content": " runs away\n"},
]
SINGLE = [TURNS[1], TURNS[2]]
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + "
    "' [/INST]' }}{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + ' ' }}"
    "{{ eos_token }}{% endif %}{% endfor %}"
)
# As Qwen3 does: an empty thought in the last turn only, which its prompt does not write.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if loop.last and m['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As DeepSeek-R1 does: the prompt opens a thought that a finished conversation does not hold.
OPENING = THINKING.replace("<think>\n\n</think>\n\n", "").replace(
    "'<|im_start|>assistant\n' }}{% endif %}", "'<|im_start|>assistant\n<think>\n' }}{% endif %}"
)


def tokens(bos: bool = False, chat: str | None = None) -> Any:
    made = tiny.tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    if bos:
        made.add_special_tokens({"bos_token": "<s>"})
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", made.bos_token_id)]
        )
    made.chat_template = chat
    return made


def encode(task: Instruction, made: Any, *rows: Any, length: int = 400) -> list[Any]:
    return task.encode([{"messages": list(m)} for m in rows], made, length, []).rows


def learned(row: Any, made: Any) -> list[str]:
    """The supervised stretches as text."""
    found, labels = [[]], row["labels"]
    for label in labels:
        if label != IGNORE:
            found[-1].append(label)
        elif found[-1]:
            found.append([])
    return [made.decode(part) for part in found if part]


def task(**fields: Any) -> Instruction:
    return Instruction(train="train.jsonl", **fields)


END = "<|endoftext|>"
LEARNED = {
    ("alpaca", None): [f"jumps over{END}", f"runs away{END}"],
    ("plain", None): [f"jumps over{END}", f"runs away{END}"],
    ("chatml", None): ["jumps over<|im_end|>", "runs away<|im_end|>"],
    ("auto", None): [f"jumps over{END}", f"runs away{END}"],
    ("auto", LLAMA2): [f" jumps over {END}", f" runs away {END}"],
    ("auto", THINKING): ["jumps over<|im_end|>", "<think>\n\n</think>\n\nruns away<|im_end|>"],
    ("auto", OPENING): ["jumps over<|im_end|>", "runs away<|im_end|>"],
}


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize(("template", "chat"), LEARNED)
def test_each_answer_and_its_terminator_are_learned(
    template: str, chat: str | None, bos: bool
) -> None:
    made = tokens(bos or chat == LLAMA2, chat)
    row = encode(task(template=template), made, TURNS)[0]
    assert learned(row, made) == LEARNED[template, chat]
    last = encode(task(template=template, train_on="last_answer"), made, TURNS)[0]
    assert learned(last, made) == LEARNED[template, chat][-1:]
    whole = encode(task(template=template, train_on="everything"), made, TURNS)[0]
    assert IGNORE not in whole["labels"]
    assert whole["input_ids"] == row["input_ids"] and whole["input_ids"][1:] == whole["labels"][:-1]


def test_a_template_without_an_end_gets_eos(tmp_path: Path) -> None:
    file = tmp_path / "bare.jinja"
    file.write_text("{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}")
    made = tokens()
    row = encode(task(template=str(file)), made, TURNS)[0]
    assert learned(row, made) == ["jumps over", f" runs away{END}"]


def test_eos_is_learned_though_padding_looks_like_it() -> None:
    made = tokens()
    made.pad_token = made.eos_token
    rows = encode(task(), made, SINGLE, TURNS)
    batch = task().collate(rows, made.pad_token_id)
    for row, labels, mask in zip(rows, batch["labels"], batch["attention_mask"], strict=True):
        n = len(row["input_ids"])
        assert labels[n - 1] == made.eos_token_id and (labels[n:] == IGNORE).all()
        assert mask.tolist() == [1] * n + [0] * (len(mask) - n)


@pytest.mark.parametrize("template", ["alpaca", "plain", "chatml"])
def test_training_asking_and_serving_see_the_same_prompt_with_one_bos(template: str) -> None:
    made = tokens(bos=True)
    ids = encode(task(template=template), made, SINGLE)[0]["input_ids"]
    asked = Template(made).prompt_ids(SINGLE[:-1])
    served = made.apply_chat_template(SINGLE[:-1], add_generation_prompt=True)["input_ids"]
    assert asked == list(served) == ids[: len(asked)]
    assert ids.count(made.bos_token_id) == 1 and ids[0] == made.bos_token_id


def test_the_template_travels_with_the_tokenizer(tmp_path: Path) -> None:
    made = tokens()
    task(template="alpaca").prepare(made)
    made.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.chat_template == made.chat_template
    assert encode(task(), again, TURNS) == encode(task(), made, TURNS)


def test_unusable_templates_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"chatml needs a tokenizer with the token <\|im_end\|>"):
        task(template="chatml").prepare(tiny.tokenizer())
    refusing = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(UserError, match=r"refuses a conversation \(System role not supported"):
        encode(task(), tokens(chat=refusing), TURNS)
    model = HFModel(path=None, kind="decoder")
    complaints = task(template=str(tmp_path / "nowhere.jinja")).check(model)
    assert len(complaints) == 1 and "neither one of auto, alpaca, chatml, plain" in complaints[0]


def test_truncation_cuts_the_prompt_and_never_the_answer() -> None:
    made = tokens(bos=True)
    long = [{"role": "user", "content": "the fox " * 60}, SINGLE[1]]
    full = encode(task(), made, long)[0]
    cut = task().encode([{"messages": long}], made, 40, [])
    row = cut.rows[0]
    assert cut.counts == {"truncated": 1} and len(row["input_ids"]) == 40
    assert row["input_ids"][0] == made.bos_token_id
    assert row["input_ids"][1:] == full["input_ids"][-39:]
    assert learned(row, made) == learned(full, made)


def test_an_answer_that_lost_its_beginning_is_no_longer_learned() -> None:
    made = tokens()
    size = len(encode(task(train_on="last_answer"), made, TURNS)[0]["input_ids"])
    for length in range(30, size):
        rows = task().encode([{"messages": TURNS}], made, length, []).rows
        assert learned(rows[0], made) in (
            [f"jumps over{END}", f"runs away{END}"],
            [f"runs away{END}"],
        )


def test_rows_without_room_are_dropped_and_counted_or_refused() -> None:
    made = tokens()
    long = [SINGLE[0], {"role": "assistant", "content": "the bear " * 60}]
    kept = task().encode([{"messages": long}, {"messages": SINGLE}], made, 120, [])
    assert kept.counts == {"dropped": 1} and [row["index"] for row in kept.rows] == [1]
    strict = task(overflow="drop")
    assert strict.encode([{"messages": long}, {"messages": SINGLE}], made, 120, []).counts == {
        "dropped": 1
    }
    with pytest.raises(UserError, match=r"row 0 has \d+ tokens, more than data.max_length=120"):
        task(overflow="error").encode([{"messages": long}], made, 120, [])
    with pytest.raises(UserError, match="no row has room for its answer in 120 tokens"):
        task().encode([{"messages": long}], made, 120, [])


def test_rows_that_learn_nothing_are_counted_apart_from_those_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    supervised = Instruction.supervised

    def nothing(self: Any, messages: Any, template: Any) -> Any:
        ids, marks = supervised(self, messages, template)
        return ids, marks if messages is SINGLE else [0] * len(marks)

    monkeypatch.setattr(Instruction, "supervised", nothing)
    long = [SINGLE[0], {"role": "assistant", "content": "the bear " * 60}]
    rows = [{"messages": SINGLE}, {"messages": TURNS}, {"messages": long}]
    made = task(overflow="drop").encode(rows, tokens(), 200, [])
    assert made.counts == {"fully_masked": 1, "dropped": 1} and len(made.rows) == 1


def test_an_encoder_is_refused_with_what_would_work(tmp_path: Path) -> None:
    complaints = task().check(HFModel(path=str(tiny.bert(tmp_path)), kind="encoder"))
    assert len(complaints) == 1 and "needs a decoder" in complaints[0]
    assert task().check(HFModel(path=str(tiny.gpt2(tmp_path / "g")))) == []


def plain_loss(net: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    logits = net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    labels = batch["labels"]
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return total, (labels != IGNORE).sum()


def gemma2(folder: Path) -> Path:
    torch.manual_seed(0)
    made = tiny.tokenizer()
    config = Gemma2Config(
        vocab_size=len(made),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=2.0,
        initializer_range=0.5,
        pad_token_id=made.pad_token_id,
    )
    Gemma2ForCausalLM(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2, gemma2])
def test_dropping_prompts_before_the_head_changes_nothing(
    tmp_path: Path, make: Any, adapters: bool
) -> None:
    folder = make(tmp_path)
    net = AutoModelForCausalLM.from_pretrained(folder)
    if adapters:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
        net = get_peft_model(net, config)
        torch.nn.init.normal_(next(p for n, p in net.named_parameters() if "lora_B" in n))
    made = tiny.tokenizer()
    batch = task().collate(encode(task(), made, SINGLE, TURNS), made.pad_token_id)
    seen: list[int] = []
    head = net.get_output_embeddings()
    watch = head.register_forward_hook(lambda m, i, out: seen.append(out.shape[:-1].numel()))
    loss = task().loss(net, batch)
    watch.remove()
    total, count = plain_loss(net, batch)
    assert loss.count == count == loss.logits.shape[0] == seen[0] < batch["labels"].numel()
    torch.testing.assert_close(loss.total / count, total.double() / count, rtol=1e-6, atol=1e-6)
    trained = [p for p in net.parameters() if p.requires_grad]
    ours = torch.autograd.grad(loss.total, trained)
    theirs = torch.autograd.grad(total, trained)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm() + 1e-7


def test_scores_are_the_same_however_the_rows_are_batched(tmp_path: Path) -> None:
    net = AutoModelForCausalLM.from_pretrained(tiny.llama(tmp_path)).eval()
    made = tiny.tokenizer()
    rows = encode(task(), made, SINGLE, TURNS, SINGLE, TURNS[1:])
    values = []
    for size in (1, 3, 4):
        scores = task().scores([])
        for k in range(0, len(rows), size):
            scores.update(task().loss(net, task().collate(rows[k : k + size], 0)))
        values.append(scores.compute())
    for other in values[1:]:
        assert other == pytest.approx(values[0], rel=1e-6)
    assert values[0]["perplexity"] == pytest.approx(torch.tensor(values[0]["loss"]).exp().item())
    assert "bits_per_byte" not in values[0]


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_a_batch_of_prompts_is_answered_as_each_alone(tmp_path: Path, make: Any) -> None:
    net = AutoModelForCausalLM.from_pretrained(make(tmp_path)).eval()
    made = tiny.tokenizer()
    prompts = [made(t)["input_ids"] for t in ("the fox", "a question is asked and an answer", "b")]
    write = Generation(max_new_tokens=12)
    together = write.generate(net, prompts, made, [], 200)
    alone = [write.generate(net, [p], made, [], 200)[0] for p in prompts]
    assert together == alone and all(together)
    ids = net.generate(torch.tensor([prompts[0]]), max_new_tokens=12, do_sample=False)[0]
    stop = int(ids[len(prompts[0]) + 4])
    stopped = write.generate(net, prompts[:1], made, [stop], 200)[0]
    until = ids.tolist().index(stop, len(prompts[0]))
    assert stopped == made.decode(ids[len(prompts[0]) : until], skip_special_tokens=True)


def test_a_prompt_too_long_is_cut_as_in_training_and_keeps_bos(tmp_path: Path) -> None:
    """Evaluation and `predict` ask by the same `written`."""
    made = tokens(bos=True)
    net = AutoModelForCausalLM.from_pretrained(
        tiny.llama(tmp_path, vocab_size=len(made), max_position_embeddings=48)
    ).eval()
    read: list[list[int]] = []
    net.model.embed_tokens.register_forward_pre_hook(lambda m, args: read.extend(args[0].tolist()))
    question = {"role": "user", "content": "the fox " * 60}
    asked = task(generation=Generation(max_new_tokens=8), template="plain")
    asked.prepare(made)
    whole = Template(made).prompt_ids([question])
    assert whole[0] == made.bos_token_id and len(whole) > 48
    asked.written(net, [{"messages": [question, SINGLE[1]]}], made)
    assert read[0] == [made.bos_token_id, *whole[-39:]]
    answers(net, [question["content"]], made, asked)
    assert [ids for ids in read if len(ids) == 40] == [read[0]] * 2
    trained = asked.encode([{"messages": [question, SINGLE[1]]}], made, 48, []).rows[0]
    assert trained["input_ids"][0] == read[0][0] and whole[-1] in trained["input_ids"]


def test_sampling_repeats_itself_and_leaves_the_seed_alone(tmp_path: Path) -> None:
    net = AutoModelForCausalLM.from_pretrained(tiny.llama(tmp_path)).eval()
    made = tiny.tokenizer()
    warm = Generation(max_new_tokens=12, temperature=1.0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = warm.generate(net, [[1, 2, 3]], made, [], 200)
    assert torch.equal(before, torch.get_rng_state())
    assert first == warm.generate(net, [[1, 2, 3]], made, [], 200)
    assert first != Generation(max_new_tokens=12).generate(net, [[1, 2, 3]], made, [], 200)


def test_written_answers_say_what_was_asked(tmp_path: Path) -> None:
    net = AutoModelForCausalLM.from_pretrained(tiny.llama(tmp_path)).eval()
    made = tiny.tokenizer()
    asked = task(generation=Generation(max_new_tokens=4))
    asked.prepare(made)
    answer = asked.written(net, [{"messages": TURNS}], made)[0]
    assert (answer["input"], answer["reference"]) == ("and the bear?", " runs away\n")
    words = "the bear runs away at dawn"
    scores = asked.answer_scores([{**answer, "prediction": words, "reference": words}])
    assert scores == pytest.approx({"exact_match": 1, "bleu": 1, "rouge_l": 1, "chrf": 1})
    assert asked.answer_scores([]) == {}


def test_the_baseline_is_the_most_frequent_answer() -> None:
    def row(answer: str) -> Any:
        return {"messages": [SINGLE[0], {"role": "assistant", "content": answer}]}

    examples = Examples([row("yes"), row("no"), row("yes")], [], [row("yes"), row("no")])
    assert task().baseline(examples)["test/exact_match"] == 0.5
    first = task(generation=Generation(examples=1)).baseline(examples)
    assert first["test/exact_match"] == 1.0
