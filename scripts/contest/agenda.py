"""What is compared: contestants, and what they must reach, for each bar of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from contest.bars import Bar
from contest.ours import RUN, again, ours
from contest.sides import Side, peer, roof, startup
from contest.works import Works
from peers.work import Work

LOOP, BARE = "hand-written loop", "bare Lightning"
SHORT = "a loop of forty lines"
SENTENCE = "sentence-transformers + scikit-learn"
PYTHON, MATMUL = "bare python", "2048-cubed matmul"


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Contestants that take turns, and the bars that are read off their reports."""

    number: str
    title: str
    sides: tuple[Side, ...]
    bars: tuple[Bar, ...]
    before: tuple[Side, ...] = ()
    """Run once, before the first round, unmeasured."""


def hf(work: Work, flags: str = "best") -> Side:
    name = "random order" if flags == "first" else flags
    return peer(f"HF Trainer, {name}", "hf_trainer.py", replace(work, flags=flags))


def trl(work: Work, flags: str = "best", once: bool = False) -> Side:
    name = {"best": "length-grouped", "first": "random order"}.get(flags, flags)
    chosen = replace(work, flags=flags)
    return peer(f"TRL, {name}", "trl_sft.py", chosen, "trl", "peft", once=once)


def agenda(
    works: Works, warm: Path, litgpt: str | None = None, nanogpt: Path | None = None
) -> list[Contest]:
    """All of it, in the order of the numbers.

    LitGPT where a Python is named that has it, nanoGPT where a clone of it is.
    """
    classes, pairs = works.classes, works.pairs
    head = replace(classes, trains="head", epochs=10)
    top = replace(classes, trains="top1", epochs=3)
    features = replace(classes, trains="features", epochs=5, learning_rate=3e-3)
    return [
        against_hf("P1", "head_only, 10 epochs", head, 8.0),
        warm_cache("head_only", replace(head, epochs=4), warm / "head"),
        warm_cache("feature_based", features, warm / "features"),
        embeddings(features),
        against_hf("P4", "partial_finetune, top block, 3 epochs", top, 1.6),
        throughput("full_finetune", classes),
        throughput("lora", replace(classes, trains="lora", learning_rate=2e-3)),
        instruction("P6", replace(pairs, trains="lora"), 1.45, litgpt),
        instruction("P7", replace(pairs, trains="qlora"), 1.7),
        overhead(works.one_layer),
        commands(),
        first_step("full_finetune", works.first["classification"], hf),
        first_step("lora, instruction", works.first["instruction"], trl),
        from_scratch(works.text, nanogpt),
        share_of_roof(replace(classes, steps=works.short)),
    ]


def against_hf(number: str, title: str, work: Work, limit: float) -> Contest:
    other = hf(work)
    bar = Bar(number=number, work=title, measure="fit_seconds", how="faster",
              other=other.name, limit=limit)  # fmt: skip
    whole = Bar(number=number, work=title, measure="wall_seconds", how="faster", other=other.name)
    same = Bar(number=number, work=title, measure="accuracy", how="gain", other=other.name)
    return Contest(number=number, title=title, sides=(ours(work), other), bars=(bar, whole, same))


def warm_cache(strategy: str, work: Work, folder: Path) -> Contest:
    first, second = again(work, folder)
    title = f"{strategy} again, caches warm"
    bar = Bar(number="P2", work=title, measure="fit_seconds", how="alone", limit=2.0)
    return Contest(number="P2", title=title, sides=(second,), bars=(bar,), before=(first,))


def embeddings(work: Work) -> Contest:
    title, other = "feature_based, whole process", SENTENCE
    sides = (ours(work), peer(other, "sentence.py", work, "sentence_transformers"))
    bars = (
        Bar(number="P3", work=title, measure="wall_seconds", how="faster", other=other, limit=1.1),
        Bar(number="P3", work=title, measure="accuracy", how="gain", other=other, limit=0.0),
    )
    return Contest(number="P3", title=title, sides=sides, bars=bars)


def throughput(title: str, work: Work) -> Contest:
    limits = {LOOP: 0.97, "HF Trainer, best": 1.0, "HF Trainer, default": 1.6}
    sides = (ours(work), peer(LOOP, "loop.py", work), hf(work), hf(work, "default"))
    rates = [
        Bar(number="P5", work=title, measure="tokens_per_second", how="rate", other=n, limit=limit)
        for n, limit in limits.items()
    ]
    same = Bar(number="P5", work=title, measure="loss", how="apart", other=LOOP)
    return Contest(number="P5", title=title, sides=sides, bars=(*rates, same))


def instruction(number: str, work: Work, limit: float, litgpt: str | None = None) -> Contest:
    """Peers' other flags run once: the bar is against whichever of TRL's is fastest."""
    title = f"{work.trains}, instruction"
    best = trl(work)
    others = [trl(work, "default", once=True), trl(work, "packed", once=True)]
    if litgpt is not None:
        others.append(peer("LitGPT", "litgpt_lora.py", work, once=True, python=litgpt))
    sides = (ours(work), best, peer(LOOP, "loop.py", work), *others)
    memory = 0.8 if number == "P6" else None
    equal = {"measure": "loss", "how": "apart", "other": best.name}
    bars = [
        Bar(number=number, work=title, measure="tokens_per_second", how="rate",
            other=best.name, limit=limit),
        Bar(number=number, work=title, measure="peak_memory_mb", how="share",
            other=best.name, limit=memory),
        Bar(number=number, work=title, limit=None if number == "P6" else 0.05, **equal),
        Bar(number=number, work=title, measure="tokens_per_second", how="rate",
            other=LOOP, limit=0.97),
        *(
            Bar(number=number, work=title, measure="tokens_per_second", how="rate",
                other=side.name, limit=limit if side.name.startswith("TRL") else None)
            for side in others
        ),
    ]  # fmt: skip
    return Contest(number=number, title=title, sides=sides, bars=tuple(bars))


def overhead(work: Work) -> Contest:
    title = "our cost over bare Lightning, one layer, ms a step"
    bar = Bar(number="P8", work=title, measure="ms_per_step", how="over", other=BARE, limit=0.3)
    # MPNet has no other.
    sides = (ours(work, "model.attention=eager"), peer(BARE, "bare_lightning.py", work))
    return Contest(number="P8", title=title, sides=sides, bars=(bar,))


def commands() -> Contest:
    asked = {
        "--help": [RUN, "--help"],
        "--cfg job": [RUN, "--cfg", "job"],
        "a configuration error": [RUN, "strategy.rnk=8"],
    }
    bars = [
        bar
        for name in asked
        for bar in (
            Bar(number="P9", work=f"{name}, seconds over a bare interpreter", measure="seconds",
                how="over", who=name, other=PYTHON, limit=1.0),
            Bar(number="P9", work=f"{name} imports torch", measure="torch_imported",
                how="alone", who=name, other=name, limit=0.0),
        )
    ]  # fmt: skip
    ends = {"a configuration error": 2}
    sides = [startup(PYTHON, "-c", "pass")]
    sides += [startup(n, *a, ends=ends.get(n, 0)) for n, a in asked.items()]
    return Contest(number="P9", title="start-up", sides=tuple(sides), bars=tuple(bars))


def first_step(title: str, work: Work, rival: Callable[[Work, str], Side]) -> Contest:
    other = rival(work, "first")
    title = f"{title}: process start to first step"
    bars = (
        Bar(number="P10", work=title, measure="first_step_seconds", how="faster",
            other=other.name, limit=1.0),
        Bar(number="P10", work=title, measure="first_step_tokens", how="share", other=other.name),
    )  # fmt: skip
    return Contest(number="P10", title=title, sides=(ours(work), other), bars=bars)


def from_scratch(work: Work, nanogpt: Path | None) -> Contest:
    """Against nanoGPT itself; a shorter and faster loop is reported."""
    title, limits = "from_scratch, characters", {"nanoGPT": 0.95, SHORT: None}
    sides = [ours(work), peer(SHORT, "scratch.py", work)]
    if nanogpt is not None:
        clone = str(nanogpt.absolute())
        sides.insert(1, peer("nanoGPT", "nanogpt.py", work, more=(clone,)))
    bars = [
        bar
        for name, limit in limits.items()
        for bar in (
            Bar(number="P11", work=title, measure="tokens_per_second", how="rate",
                other=name, limit=limit),
            Bar(number="P11", work=title, measure="loss", how="apart", other=name),
        )
    ]  # fmt: skip
    return Contest(number="P11", title=title, sides=tuple(sides), bars=tuple(bars))


def share_of_roof(work: Work) -> Contest:
    title = "full_finetune: share of the matmul roof"
    bar = Bar(number="P12", work=title, measure="flops_per_second", how="roof", other=MATMUL)
    return Contest(number="P12", title=title, sides=(ours(work), roof()), bars=(bar,))
