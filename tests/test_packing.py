"""Packed documents are read and learned as if each stood alone; else packing is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoTokenizer

from llmexp.data.batches import TokenRows, UpdateBatches
from llmexp.data.module import TokenData
from llmexp.data.packing import best_fit, packed
from llmexp.errors import UserError
from llmexp.nets.packing_proof import prove_packing
from llmexp.strategies.full_finetune import FullFinetune
from llmexp.tasks import token_loss
from llmexp.tasks.base import IGNORE, Encoded, Examples, Row
from llmexp.tasks.instruction import Instruction
from llmexp.tasks.language_modeling import LanguageModeling
from tests import nets, runs, tiny

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
GPT2 = {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
# A window of 4 tokens: shorter than the documents, so that its positions must restart too.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SHAPE,
    "gpt2": {**GPT2, "initializer_range": 0.2},
    "mistral": {**SHAPE, "sliding_window": 4},
    "qwen2": SHAPE,
    "qwen3": SHAPE,
    "gemma3_text": {
        **SHAPE,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}
# They read a row from its beginning, whatever its positions say.
LEAKING: dict[str, dict[str, Any]] = {
    "bloom": {"vocab_size": 300, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mamba": {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
}
LENGTHS = (9, 1, 14, 6)
TASK = Instruction(train="made.jsonl", packing=True)
WORDS = tiny.TEXTS[0].split()


def network(family: str, attention: str | None = None, seed: int = 0) -> Any:
    fields = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.AutoConfig.for_model(family, **fields, **(FAMILIES | LEAKING)[family])
    torch.manual_seed(seed)
    how = {} if attention is None else {"attn_implementation": attention}
    return transformers.AutoModelForCausalLM.from_config(config, **how).eval()


def documents(seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> list[Row]:
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(3, 300, (n,), generator=generator).tolist() for n in lengths]
    # The first third of a document is no answer.
    return [
        {"input_ids": i, "labels": [IGNORE] * (len(i) // 3) + i[len(i) // 3 :], "index": k}
        for k, i in enumerate(ids)
    ]


def in_order(rows: list[Row], room: int) -> tuple[list[Row], list[Row]]:
    """Packs, and the same documents in the order in which the packs hold them."""
    order = [i for pack in best_fit([len(r["input_ids"]) for r in rows], room) for i in pack]
    return packed(rows, room), [rows[i] for i in order]


def loss(net: Any, rows: list[Row]) -> Any:
    return TASK.loss(net, TASK.collate(rows, 0))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_logits_loss_and_gradient_are_those_of_each_document(
    family: str, attention: str
) -> None:
    net = network(family, attention)
    packs, alone = in_order(documents(), 24)
    assert [len(p["input_ids"]) for p in packs] == [24, 6]  # three documents; one, and padding
    one = loss(net, packs)
    each = torch.cat([loss(net, [row]).logits for row in alone])
    torch.testing.assert_close(one.logits, each, rtol=1e-5, atol=1e-5)
    other = loss(net, alone)
    assert one.count == other.count
    mean, reference = one.total / one.count, other.total / other.count
    assert abs(float(mean - reference)) < 1e-6
    weights = list(net.parameters())
    ours, theirs = (_flat(torch.autograd.grad(t, weights)) for t in (mean, reference))
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def _flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([g.flatten().double() for g in gradients])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_another_document_beside_it_changes_nothing(family: str, attention: str) -> None:
    net, lengths = network(family, attention), (14, 9)
    ours, theirs = documents(0, lengths), documents(1, lengths)
    (one,), (other,) = packed(ours, 23), packed([theirs[0], ours[1]], 23)
    assert one["input_ids"][:14] != other["input_ids"][:14]
    assert one["input_ids"][14:] == other["input_ids"][14:]
    labels = [IGNORE] * 14 + one["input_ids"][14:]
    first, second = (loss(net, [{**row, "labels": labels}]).logits for row in (one, other))
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_proof_holds(family: str, attention: str) -> None:
    net = network(family, attention).train()
    before = torch.get_rng_state()
    prove_packing(net, TASK)
    assert net.training and torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("family", LEAKING)
def test_a_network_that_leaks_is_refused(family: str) -> None:
    net = network(family)
    with pytest.raises(UserError, match=r"data.packing: \w+ .* use data.packing=false") as refused:
        prove_packing(net, TASK)
    assert type(net).__name__ in str(refused.value) and "\n" not in str(refused.value)
    replace(TASK, packing=False).prove(net)  # nothing to refuse


class Cached(nn.Module):
    """A Llama that keeps a cache, with which transformers builds no mask from positions."""

    def __init__(self, net: Any):
        super().__init__()
        self.net, self.config, self.dtype = net, net.config, net.dtype
        self.get_output_embeddings = net.get_output_embeddings
        self.get_input_embeddings = net.get_input_embeddings

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, **inputs: Any) -> Any:
        return self.net(input_ids, position_ids=position_ids, **{**inputs, "use_cache": True})


def test_a_mask_that_was_not_built_is_noticed() -> None:
    with pytest.raises(UserError, match="lets packed documents see each other"):
        prove_packing(Cached(network("llama")), TASK)


def biased(bias: float) -> Any:
    """A GPT-2 whose logits have much in common, which softmax ignores."""
    config = transformers.GPT2Config(**GPT2, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    net = transformers.GPT2LMHeadModel(config).eval()
    net.lm_head.bias = nn.Parameter(torch.full((300,), bias))
    return net


@pytest.mark.parametrize("bias", [0.0, -40.0, -100.0])
def test_half_precision_hides_no_leak(bias: float) -> None:
    """However large the offset at which logits are rounded; and a sound network is not refused."""
    with torch.autocast("cpu", torch.bfloat16):
        prove_packing(biased(bias), TASK)
        with pytest.raises(UserError, match="lets packed documents see each other"):
            prove_packing(Cached(biased(bias)), TASK)


def test_a_network_that_takes_no_positions_is_refused() -> None:
    net = network("llama")
    plain = nn.Module()
    plain.forward = lambda input_ids, attention_mask=None, use_cache=None: None
    plain.get_input_embeddings = net.get_input_embeddings
    with pytest.raises(UserError, match="takes no positions"):
        prove_packing(plain, TASK)


def test_flash_attention_gets_one_row_without_padding(monkeypatch: Any) -> None:
    """What it is handed, read by sdpa: the same logits, and no position is padding."""
    net = network("llama")
    packs, _ = in_order(documents(), 24)
    expected = loss(net, packs)
    monkeypatch.setattr(token_loss, "is_flash_attention_requested", lambda config: True)
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda m, a, k: seen.append(k["input_ids"]), with_kwargs=True)
    found = loss(net, packs)
    assert seen[0].tolist() == [[t for pack in packs for t in pack["input_ids"]]]
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.labels, expected.labels)


@pytest.mark.parametrize("room", [1, 7, 50, 1000])
def test_packs_hold_every_document_once_and_never_too_many(room: int) -> None:
    generator = torch.Generator().manual_seed(room)
    lengths = torch.randint(1, room + 1, (300,), generator=generator).tolist()
    packs = best_fit(lengths, room)
    assert sorted(i for pack in packs for i in pack) == list(range(300))
    sizes = [sum(lengths[i] for i in pack) for pack in packs]
    assert max(sizes) <= room
    least = -(-sum(lengths) // room)
    assert least <= len(packs) <= least * 11 / 9 + 1
    assert packs == best_fit(lengths, room)


def test_each_document_goes_where_least_is_left() -> None:
    assert best_fit([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]
    assert best_fit([3, 8, 7, 2], 10) == [[1, 3], [2, 0]]
    assert best_fit([], 10) == []


def test_positions_restart_and_labels_stay_in_their_document() -> None:
    rows = documents()
    for pack in packed(rows, 24):
        starts = [k for k, position in enumerate(pack["position_ids"]) if position == 0]
        for a, b in zip(starts, [*starts[1:], None], strict=True):
            ids, labels = pack["input_ids"][a:b], pack["labels"][a:b]
            assert pack["position_ids"][a:b] == list(range(len(ids)))
            assert [ids, labels] in [[r["input_ids"], r["labels"]] for r in rows]


def test_padding_is_a_document_of_its_own() -> None:
    batch = TASK.collate([packed(documents(0, (3, 2)), 5)[0], packed(documents(0, (2,)), 5)[0]], 0)
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]
    assert batch["tokens"] == 7 and (batch["labels"][1, 2:] == IGNORE).all()


def context(folder: Path, *, packing: bool, batch_size: int = 3, accumulate: int = 1) -> Any:
    rows = [
        {
            "messages": [
                {"role": "user", "content": " ".join(WORDS[: 1 + i % 4])},
                {"role": "assistant", "content": " ".join(WORDS[: 1 + (5 * i) % 7])},
            ]
        }
        for i in range(30)
    ]
    task = Instruction(train="made.jsonl", template="plain", packing=packing, batch_size=batch_size)
    net = folder / "net"
    if not net.exists():
        tiny.llama(net)
    made = nets.context(net, FullFinetune(), (task, Examples(rows, rows[:4], rows[4:9])))
    return replace(made, accumulate=accumulate)


def test_only_training_is_packed_and_the_epoch_is_of_seed_and_epoch(tmp_path: Path) -> None:
    made = context(tmp_path, packing=True)
    data, again = TokenData(made), TokenData(made)
    for one in (data, again):
        one.setup("fit")
    plain = TokenData(context(tmp_path, packing=False))
    plain.setup("fit")
    assert data.encoded["test"].rows == plain.encoded["test"].rows
    assert data.encoded["train"].rows == again.encoded["train"].rows
    facts, before = data.encoded["train"].facts(), plain.encoded["train"].facts()
    assert facts["packed"] == before["rows"] == 30 and facts["packs"] == facts["rows"] < 30
    assert (facts["tokens"], facts["supervised"]) == (before["tokens"], before["supervised"])
    assert facts["fill"] == round(facts["tokens"] / (facts["packs"] * made.max_length), 4)
    assert made.examples.encoding["train"] == facts
    assert made.examples.encoding["test"] == plain.encoded["test"].facts()
    orders = []
    for epoch in (0, 1, 0):
        loader = data.train_dataloader()
        loader.batch_sampler.set_epoch(epoch)
        batches = list(loader)
        assert sum(batch["tokens"] for batch in batches) == facts["tokens"]
        orders.append([batch["input_ids"].tolist() for batch in batches])
    assert orders[0] == orders[2] != orders[1]


@pytest.mark.parametrize("world", [1, 2])
def test_packed_updates_are_the_same_rows_however_they_are_cut(tmp_path: Path, world: int) -> None:
    data = TokenData(context(tmp_path, packing=True))
    data.setup("fit")
    lengths = data.lengths("train")
    whole = list(UpdateBatches(lengths, 4, 1, seed=3))
    parts = [list(UpdateBatches(lengths, 1, 4 // world, 3, r, world)) for r in range(world)]
    steps = [[i for part in parts for i in part[k] if i >= 0] for k in range(len(parts[0]))]
    size = 4 // world
    joined = [[i for s in steps[k : k + size] for i in s] for k in range(0, len(steps), size)]
    assert [sorted(u) for u in joined] == [sorted(u) for u in whole]
    filler = TokenRows(data.encoded["train"].rows)[-1]
    assert set(filler["labels"]) == {IGNORE} and "position_ids" in filler


def test_packed_text_learns_every_token_of_every_document_once(tmp_path: Path) -> None:
    made = AutoTokenizer.from_pretrained(tiny.llama(tmp_path))
    rows = [{"text": " ".join(WORDS[:n])} for n in (3, 15, 1, 9, 15)]
    plain = LanguageModeling(train="made.txt").encode(rows, made, 12, [])
    task = LanguageModeling(train="made.txt", packing=True)
    pieces = task.encode(rows, made, 12, [])
    packs = task.packed(pieces, 12)

    def learned(encoded: Encoded) -> list[int]:
        return sorted(t for row in encoded.rows for t in row["labels"] if t != IGNORE)

    assert learned(plain) == learned(pieces) == learned(packs)
    for encoded in (plain, pieces, packs):
        assert sum(r["text_bytes"] for r in encoded.rows) == sum(len(r["text"]) for r in rows)
        assert encoded.counts["documents"] == 5
    # A piece belongs to one document: each ends with EOS, none goes on behind it.
    assert all(made.eos_token_id not in piece["labels"][:-1] for piece in pieces.rows)
    assert all(len(row["input_ids"]) <= 12 for row in packs.rows)


@pytest.mark.parametrize("strategy", ["full_finetune", "lora", "partial_finetune"])
@pytest.mark.parametrize("pose", [runs.answered, runs.written])
def test_a_packed_run_says_how_full_its_packs_are(tmp_path: Path, pose: Any, strategy: str) -> None:
    net = tiny.llama(tmp_path / "net")
    result = runs.finished(
        tmp_path / "run",
        *pose(tmp_path / "data"),
        "model=local",
        f"model.path={net}",
        f"strategy={strategy}",
        "data.packing=true",
        f"cache.dir={tmp_path / 'cache'}",
    )
    train, test = result["encoding"]["train"], result["encoding"]["test"]
    assert 0.5 < train["fill"] <= 1 and train["packs"] == train["rows"] <= train["packed"]
    assert train["longest"] <= (96 if pose is runs.answered else 32)
    assert result["cost"]["tokens_trained"] == train["tokens"]
    assert "packs" not in test and test["supervised"] > 0
    # Frozen blocks are computed once for packs too.
    assert not [note for note in result["notes"] if "frozen blocks run in every step" in note]


def test_a_run_on_a_leaking_network_ends_in_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    made = tiny.tokenizer()
    network("bloom").save_pretrained(folder)
    made.save_pretrained(folder)
    words = ["model=local", f"model.path={folder}", "+model.attention=eager"]
    words += ["data.packing=true", "strategy=full_finetune"]
    with pytest.raises(UserError, match=r"data\.packing: BloomForCausalLM"):
        runs.finished(tmp_path / "run", *runs.written(tmp_path / "data"), *words)
