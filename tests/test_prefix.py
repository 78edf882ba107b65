"""Frozen blocks run once per distinct row, and nobody can tell from the numbers."""

from __future__ import annotations

import os
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from llmexp.cache.distinct import Distinct
from llmexp.cache.features import FeatureCache, digest
from llmexp.config import Cache
from llmexp.data import state_key, token_key
from llmexp.data.features import FeatureData, backbone_fingerprint
from llmexp.data.prefix import PrefixData, prefix_fingerprint, token_data
from llmexp.data.stored import Stored
from llmexp.nets.architecture import backbone, blocks
from llmexp.nets.freezing import frozen_blocks, train_only
from llmexp.nets.prefix import proven, standing_in
from llmexp.nets.weights import fingerprint
from llmexp.strategies.full_finetune import FullFinetune
from llmexp.strategies.head_only import HeadOnly
from llmexp.strategies.partial_finetune import PartialFinetune
from llmexp.tasks.classification import Classification
from tests import fitted, nets, tiny
from tests.forking import clean

STRATEGIES = {
    "head_only": HeadOnly(),
    "top_blocks=1": PartialFinetune(top_blocks=1),
    "lora layers=1": nets.lora(layers=1),
}
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 48, "vocab_size": 100, "pad_token_id": 0}
SMALL |= {"bos_token_id": 1, "eos_token_id": 2}
DECODER = SMALL | {"num_key_value_heads": 1, "head_dim": 16}
SHAPES: dict[str, dict[str, Any]] = {
    "bert": SMALL,
    "roberta": SMALL,
    "electra": SMALL | {"embedding_size": 16},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 48, "vocab_size": 100},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 2, "vocab_size": 100, "pad_token_id": 0},
    "llama": DECODER,
    "mistral": DECODER,
    "qwen2": DECODER,
    "qwen3": DECODER,
    "gemma3_text": DECODER | {"sliding_window": 4},
}
# Families whose blocks read what is registered after them.
RELATIVE: dict[str, dict[str, Any]] = {
    "deberta-v2": SMALL
    | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
    | {"position_biased_input": False, "norm_rel_ebd": "layer_norm", "position_buckets": 8}
    | {"conv_kernel_size": 3},
    "mpnet": SMALL,
}
DECODERS = ["gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma3_text"]


def shaped(family: str, auto: Any = AutoModelForSequenceClassification) -> Any:
    torch.manual_seed(0)
    shape = (SHAPES | RELATIVE)[family]
    config = AutoConfig.for_model(family, num_labels=3, initializer_range=0.2, **shape)
    return auto.from_config(config)


def ragged(seed: int = 0) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = (2, 9, 5, 7)
    return [
        {
            "input_ids": torch.randint(3, 100, (n,), generator=generator).tolist(),
            "labels": i % 3,
            "index": i,
        }
        for i, n in enumerate(lengths)
    ]


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("top", [0, 1])
def test_every_family_is_proven_at_every_boundary(family: str, top: int) -> None:
    net = shaped(family)
    strategy = HeadOnly() if top == 0 else PartialFinetune(top_blocks=top)
    net = strategy.adapt(net, None)  # type: ignore[arg-type]
    frozen = frozen_blocks(net)
    assert len(frozen) == 3 - top
    task = fitted.texts()[0]
    whole = task.collate(ragged(), 0)
    assert proven(net, frozen, partial(task.loss, net), whole, whole, None)


@pytest.mark.parametrize("family", DECODERS)
def test_an_output_head_is_untied_and_proven(family: str) -> None:
    net = shaped(family, AutoModelForCausalLM)
    net = HeadOnly().adapt(net, None)  # type: ignore[arg-type]
    trained = [n for n, p in net.named_parameters() if p.requires_grad]
    assert trained == ["lm_head.weight"]
    task = nets.instruction()[0]
    rows = [{**r, "labels": r["input_ids"]} for r in ragged()]
    whole = task.collate(rows, 0)
    assert proven(net, frozen_blocks(net), partial(task.loss, net), whole, whole, None)


def test_a_family_with_another_convention_is_not_proven() -> None:
    """DeBERTa's blocks return a tuple: it runs uncached rather than by a guess."""
    config = AutoConfig.for_model("deberta-v2", **SMALL)
    net = AutoModelForSequenceClassification.from_config(config)
    net = HeadOnly().adapt(net, None)  # type: ignore[arg-type]
    task = fitted.texts()[0]
    whole = task.collate(ragged(), 0)
    assert not proven(net, frozen_blocks(net), partial(task.loss, net), whole, whole, None)


@pytest.mark.parametrize("strategy", [HeadOnly(), PartialFinetune(top_blocks=1)], ids=str)
def test_deberta_runs_uncached_and_says_so(tmp_path: Path, strategy: Any) -> None:
    made = fitted.context(tiny.deberta(tmp_path / "net"), strategy, attention="eager")
    net = nets.adapted(made)
    before = nets.frozen(net)
    done = fitted.fit(made, epochs=1, net=net)
    assert not done.data.stored
    assert any("not proven to be equal for DebertaV2Layer" in n for n in made.examples.notes)
    assert any("encoder.rel_embeddings" in name for name in before)
    for name, value in before.items():
        assert torch.equal(net.get_parameter(name), value), name


def test_a_difference_is_not_proven() -> None:
    """Where a low block also feeds the trained one directly, stored states are not enough."""
    net = shaped("bert")
    net = PartialFinetune(top_blocks=1).adapt(net, None)  # type: ignore[arg-type]
    frozen = frozen_blocks(net)
    top = net.bert.encoder.layer[-1]
    top.register_forward_pre_hook(lambda m, args: (args[0] + net.seen, *args[1:]))
    first = frozen[0].register_forward_hook(lambda m, args, out: setattr(net, "seen", out * 0.1))
    task = fitted.texts()[0]
    whole = task.collate(ragged(), 0)
    assert not proven(net, frozen, partial(task.loss, net), whole, whole, None)
    first.remove()


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_on_and_off_agree(tmp_path: Path, family: str, name: str) -> None:
    folder = nets.FAMILIES[family](tmp_path / "net")
    on = fitted.fit(fitted.context(folder, STRATEGIES[name]))
    off = fitted.fit(fitted.context(folder, STRATEGIES[name], cache=False))
    assert on.data.stored and not hasattr(off.data, "stored")
    assert fitted.close(on.losses, off.losses)
    assert fitted.close(on.module.test_metrics["test/loss"], off.module.test_metrics["test/loss"])
    assert [a["prediction"] for a in on.module.answers] == [
        a["prediction"] for a in off.module.answers
    ]
    assert on.module.tokens_trained == off.module.tokens_trained


def test_on_and_off_agree_on_instructions(tmp_path: Path) -> None:
    folder = tiny.gpt2(tmp_path / "net")
    for strategy in (HeadOnly(), PartialFinetune(top_blocks=2)):
        on = fitted.fit(fitted.context(folder, strategy, nets.instruction()))
        off = fitted.fit(fitted.context(folder, strategy, nets.instruction(), cache=False))
        assert on.data.stored and fitted.close(on.losses, off.losses)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_half_precision_base_is_stored_too(tmp_path: Path, family: str, name: str) -> None:
    """Float32 heads on bfloat16 blocks: equal up to the rounding of bfloat16."""
    folder = nets.FAMILIES[family](tmp_path / "net")
    on = fitted.fit(fitted.context(folder, STRATEGIES[name], dtype="bfloat16"), epochs=1)
    off = fitted.context(folder, STRATEGIES[name], dtype="bfloat16", cache=False)
    assert on.data.stored
    assert fitted.close(on.losses, fitted.fit(off, epochs=1).losses, 0.05)


def test_dropout_of_the_prefix_is_off_in_both(tmp_path: Path) -> None:
    folder = tiny.gpt2(tmp_path / "net", embd_pdrop=0.5, resid_pdrop=0.5)
    on = fitted.fit(fitted.context(folder, HeadOnly()))
    off = fitted.fit(fitted.context(folder, HeadOnly(), cache=False))
    assert fitted.close(on.losses, off.losses)


def test_the_boundary_is_read_off_what_is_trained() -> None:
    net = shaped("llama", AutoModelForCausalLM)
    assert frozen_blocks(net) == []
    train_only(net, [net.model.layers[1]])
    assert len(frozen_blocks(net)) == 1
    train_only(net, [net.model.embed_tokens, net.model.layers[2]])
    assert frozen_blocks(net) == []
    train_only(net, [])
    assert frozen_blocks(net) == []
    tied = shaped("gpt2", AutoModelForCausalLM)
    train_only(tied, [tied.lm_head])
    assert frozen_blocks(tied) == []


def test_nothing_is_wrapped_where_nothing_is_frozen(tmp_path: Path) -> None:
    made = fitted.context(tiny.bert(tmp_path / "net"), FullFinetune())
    assert not isinstance(token_data(made, nets.adapted(made)), PrefixData)


@pytest.mark.parametrize(("family", "at"), [("bert", 0), ("llama", -1), ("gpt2", -1)])
def test_one_position_is_kept_where_one_is_read(tmp_path: Path, family: str, at: int) -> None:
    made = fitted.context(nets.FAMILIES[family](tmp_path / "net"), HeadOnly())
    data = made.strategy.data(made, nets.adapted(made))
    data.setup("fit")
    assert data.stored["train"].at == at
    assert len(data.stored["train"].states) == len(data.distinct["train"]) == 23
    made = fitted.context(tmp_path / "net", PartialFinetune(top_blocks=1))
    data = made.strategy.data(made, nets.adapted(made))
    data.setup("fit")
    assert data.stored["train"].at is None


def test_a_second_run_computes_nothing(tmp_path: Path) -> None:
    made = fitted.context(tiny.bert(tmp_path / "net"), HeadOnly())
    first, second = (fitted.fit(made, epochs=1).data.prefix for _ in range(2))
    assert not first.hit and second.hit
    assert second.seconds == first.seconds > 0


@pytest.mark.parametrize("strategy", [HeadOnly(), fitted.features()], ids=["states", "features"])
def test_what_a_run_made_itself_was_not_spared(tmp_path: Path, strategy: Any) -> None:
    task, examples = fitted.texts()
    examples.test = examples.validation
    made = fitted.context(tiny.bert(tmp_path / "net"), strategy, (task, examples))
    net = nets.adapted(made)
    first, second = (made.strategy.data(made, net) for _ in range(2))
    first.setup("fit")
    assert first.prefix.spared == 0.0 < first.prefix.seconds
    second.setup("fit")
    assert second.prefix.spared == second.prefix.seconds == first.prefix.seconds


def test_what_would_not_fit_runs_every_step_and_says_so(tmp_path: Path) -> None:
    made = fitted.context(tiny.bert(tmp_path / "net"), PartialFinetune(top_blocks=1), max_gb=1e-6)
    done = fitted.fit(made, epochs=1)
    assert not done.data.stored and not done.data.prefix.hit
    assert any("cache.max_gb" in note for note in made.examples.notes)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    ("family", "name"), [*(("bert", name) for name in STRATEGIES), ("llama", "lora layers=1")]
)
def test_no_autograd_in_frozen_blocks(
    tmp_path: Path, family: str, name: str, cached: bool, checkpointing: bool
) -> None:
    folder = nets.FAMILIES[family](tmp_path / "net")
    how = {"cache": cached, "gradient_checkpointing": checkpointing}
    made = fitted.context(folder, STRATEGIES[name], **how)
    net = nets.adapted(made)
    seen: list[bool] = []
    for block in frozen_blocks(net):
        block.register_forward_hook(lambda m, args, out: seen.append(out.requires_grad))
    done = fitted.fit(made, epochs=1, net=net)
    assert bool(getattr(done.data, "stored", None)) == cached
    assert len(seen) >= 2 * len(done.losses) and not any(seen)


def test_frozen_blocks_come_back(tmp_path: Path) -> None:
    made = fitted.context(tiny.bert(tmp_path / "net"), HeadOnly())
    net = nets.adapted(made)
    before = nets.logits(net, made)
    done = fitted.fit(made, epochs=1, net=net)
    *lower, last = done.module.frozen
    assert all("forward" not in vars(block) for block in lower)
    # What stays is the way the last block reads one position, of every row anew.
    assert vars(last)["forward"].func.__module__ == "llmexp.nets.last_block"
    with torch.no_grad():
        for name, value in nets.adapted(made).state_dict().items():
            net.state_dict()[name].copy_(value)
    torch.testing.assert_close(nets.logits(net, made), before, atol=1e-6, rtol=1e-5)


def test_a_failure_inside_leaves_no_stand_in() -> None:
    net = HeadOnly().adapt(shaped("bert"), None)  # type: ignore[arg-type]
    frozen = frozen_blocks(net)
    with pytest.raises(ZeroDivisionError), standing_in(frozen, torch.zeros(1, 1, 32)):
        raise ZeroDivisionError
    assert all("forward" not in vars(block) for block in frozen)


def keys(data: Any) -> set[str]:
    """Names of the entries that one set-up of this data makes."""
    folder = Path(data.context.cache.dir) / "features"
    before = {p.name for p in folder.glob("*") if p.is_dir()}
    data.setup("fit")
    return {p.name for p in folder.glob("*") if p.is_dir()} - before


def test_every_ingredient_is_in_the_key(tmp_path: Path) -> None:
    folder = tiny.bert(tmp_path / "net")
    other = tiny.bert(tmp_path / "other", seed=1)

    def new(where: Path = folder, posed: Any = None, **changes: Any) -> int:
        longest = changes.pop("max_length", 96)
        model = {name: changes.pop(name) for name in ("dtype", "attention") if name in changes}
        made = fitted.context(where, fitted.features(**changes), posed, **model)
        net = nets.adapted(made)
        object.__setattr__(made, "max_length", longest)
        return len(keys(FeatureData(made, net.backbone, made.strategy.pooling_of(made), 8)))

    assert new() == 3
    assert new() == 0
    assert new(classifier="knn") == 0
    assert new(pooling="cls") == 3
    assert new(max_length=9) == 3
    assert new(dtype="bfloat16") == 3
    assert new(other) == 3
    assert new(attention="eager") == 3
    task, examples = fitted.texts()
    examples.test = [{**examples.test[0], "text": "another text"}]
    assert new(posed=(task, examples)) == 1


@pytest.fixture(params=["features", "states"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A function that tells how many entries are new when the same data is set up once more."""
    folder = tiny.bert(tmp_path / "net")
    strategy = fitted.features() if request.param == "features" else PartialFinetune(top_blocks=1)

    def new(posed: Any = None, **model: Any) -> int:
        made = fitted.context(folder, strategy, posed, **model)
        return len(keys(made.strategy.data(made, nets.adapted(made))))

    return new


def test_how_states_are_computed_is_in_the_key(
    stored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (stored(), stored()) == (3, 0)
    assert (stored(attention="eager"), stored(attention="eager")) == (3, 0)
    for changed in state_key.LIBRARIES:
        with monkeypatch.context() as patched:
            patched.setattr(
                state_key, "version", lambda name, changed=changed: str(name == changed)
            )
            assert stored() == 3
    torch.set_float32_matmul_precision("high")
    try:
        assert stored() == 3
    finally:
        torch.set_float32_matmul_precision("highest")
    assert stored() == 0


def test_the_code_that_computes_states_is_in_their_key(
    stored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stored() == 3
    copy = tmp_path / "llmexp"
    shutil.copytree(token_key.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(token_key, "PACKAGE", copy)
    assert stored() == 0
    for file in ("nets/pooling.py", "nets/prefix.py", "data/batches.py", "tasks/base.py"):
        with (copy / file).open("a") as opened:
            opened.write("# another line\n")
        assert stored() == 3


def test_a_task_whose_source_cannot_be_read_keeps_nothing(stored: Any) -> None:
    """As one that was typed at a prompt: a change of it would go by unseen."""
    typed = type("Typed", (Classification,), {"__module__": "nowhere"})
    task, examples = fitted.texts()
    assert stored((typed(train=task.train, batch_size=5), examples)) == 0
    assert any("source of the task" in note for note in examples.notes)


def test_the_source_of_a_networks_own_modules_is_in_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a checkpoint's own code is: it may change under the same config and weights."""
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "own_network_of_a_test.py"
    file.write_text("from torch import nn\n\n\nclass Own(nn.Linear):\n    pass\n")
    import own_network_of_a_test as own  # type: ignore[import-not-found]

    made = fitted.context(tiny.bert(tmp_path / "net"), HeadOnly())
    net = nets.adapted(made)
    plain = state_key.circumstances(made, net)
    net.classifier = own.Own(32, 3)
    before = state_key.circumstances(made, net)
    file.write_text(file.read_text() + "    more = 1\n")
    assert (
        len({digest(found) for found in (plain, before, state_key.circumstances(made, net))}) == 3
    )
    del sys.modules["own_network_of_a_test"]


def test_a_weight_changes_the_fingerprint_and_a_label_does_not() -> None:
    net = shaped("bert")
    before = fingerprint(net.bert, net.config)
    net.config.num_labels = 7
    assert fingerprint(net.bert, net.config) == before
    net.config.layer_norm_eps = 0.5
    changed = fingerprint(net.bert, net.config)
    assert changed != before
    net.bert.encoder.layer[1].output.dense.bias.data[3] += 1e-6
    assert fingerprint(net.bert, net.config) != changed


@pytest.mark.parametrize("family", RELATIVE)
def test_what_stands_beside_the_blocks_is_in_the_fingerprint(family: str) -> None:
    net = shaped(family)
    body = backbone(net)
    seen = {backbone_fingerprint(body)}
    inside = {id(p) for p in blocks(net).parameters()}
    beside = [p for n, p in body.named_parameters() if id(p) not in inside and "pooler" not in n]
    for parameter in beside:
        parameter.data += 1.0
        seen.add(backbone_fingerprint(body))
    assert len(seen) == 1 + len(beside)
    for name, parameter in body.named_parameters():
        if "pooler" in name:
            parameter.data += 1.0
    assert backbone_fingerprint(body) in seen


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ("classifier.dense.bias", False),
        ("mpnet.encoder.layer.2.output.dense.bias", False),
        ("mpnet.encoder.layer.1.output.dense.bias", True),
        ("mpnet.encoder.relative_attention_bias.weight", True),
        ("mpnet.embeddings.LayerNorm.bias", True),
    ],
)
def test_states_are_found_by_all_that_they_depend_on(changed: str, counts: bool) -> None:
    net = shaped("mpnet")
    before = prefix_fingerprint(net, 2)
    net.get_parameter(changed).data += 1.0
    assert (prefix_fingerprint(net, 2) != before) == counts


def test_equal_rows_are_one_and_labels_make_no_difference() -> None:
    rows = [{"input_ids": [1, 2], "labels": k, "index": k} for k in range(3)]
    rows.append({"input_ids": [1, 2], "token_type_ids": [0, 1], "labels": 0, "index": 3})
    rows.append({"input_ids": [1], "labels": 0, "index": 4})
    distinct = Distinct(rows)
    assert [distinct.number(row) for row in rows] == [0, 0, 0, 1, 2]
    longest_first = [len(distinct.rows[i]["input_ids"]) for b in distinct.batches("cpu") for i in b]
    assert longest_first == sorted(longest_first, reverse=True)


def test_stored_rows_come_back_padded_in_any_order() -> None:
    rows = ragged()
    distinct = Distinct(rows)
    flat = torch.arange(23.0)[:, None]
    found = Stored(distinct, flat, None).batch([rows[2], rows[0]])
    assert found[..., 0].tolist() == [[11, 12, 13, 14, 15], [0, 1, 0, 0, 0]]


def cache(folder: Path, max_gb: float = 1.0) -> FeatureCache:
    return FeatureCache(Cache(enabled=True, dir=str(folder), max_gb=max_gb))


def void(_: Any) -> None:
    """For a lambda that must return nothing."""


def build(folder: Path, key: str, value: float = 1.0, max_gb: float = 1.0) -> bool:
    entry = cache(folder, max_gb).entry(
        digest({"key": key}), (250, 1), torch.float32, lambda out: void(out.fill_(value))
    )
    assert (entry.states == value).all()
    return entry.hit


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    three = 3000 / 1e9
    for age, key in enumerate("abc"):
        assert not build(tmp_path, key, max_gb=three)
        meta = tmp_path / "features" / digest({"key": key}) / "meta.json"
        os.utime(meta, (age + 1, age + 1))
    assert build(tmp_path, "a", max_gb=three)
    assert not build(tmp_path, "d", max_gb=three)
    assert build(tmp_path, "a", max_gb=three) and build(tmp_path, "c", max_gb=three)
    assert not build(tmp_path, "b", max_gb=three)


def test_a_torn_entry_is_built_again(tmp_path: Path) -> None:
    build(tmp_path, "a")
    states = tmp_path / "features" / digest({"key": "a"}) / "states.bin"
    os.truncate(states, 12)
    assert not build(tmp_path, "a", 2.0)
    with pytest.raises(ZeroDivisionError):
        cache(tmp_path).entry("broken", (4, 1), torch.float32, lambda out: 1 / 0)  # type: ignore
    assert not list((tmp_path / "features").glob("broken*/"))


def _race(folder: Path, barrier: Any, builds: Any) -> None:
    def fill(out: torch.Tensor) -> None:
        with builds.get_lock():
            builds.value += 1
        time.sleep(0.3)
        out.fill_(5.0)

    barrier.wait()
    entry = cache(folder).entry("race", (100, 1), torch.float32, fill)
    assert (entry.states == 5.0).all()


def test_two_processes_at_once_build_once(tmp_path: Path) -> None:
    forked = clean()
    barrier, builds = forked.Barrier(2), forked.Value("i", 0)
    both = [forked.Process(target=_race, args=(tmp_path, barrier, builds)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(300)
    assert [process.exitcode for process in both] == [0, 0]
    assert builds.value == 1
