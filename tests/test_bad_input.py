"""Whatever is typed wrong is one clear sentence, exit code 2, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmexp.cli import report
from llmexp.configure.compose import compose_jobs, open_keys
from llmexp.configure.preflight import build
from llmexp.errors import UserError

ROOT = Path(__file__).parents[1]
# Overrides | what the sentence must say: where, what, and what would work.
COMMAND_LINE = """
sede=1                            | command line: sede: no key sede; did you mean seed?
seed=abc                          | command line: seed: valid integer, not 'abc'
seed=-1                           | command line: seed: greater than or equal to 0, not -1
seed=null                         | command line: seed: valid integer, not null
strategy=lroa                     | strategy has no lroa.yaml; did you mean lora?
strategy=null                     | strategy=null: strategy takes one of feature_based, few_shot
strategy=[lora,qlora]             | strategy takes one of
strategy=lora,qlora               | strategy=lora,qlora: several values need -m
strategy="${name"                 | strategy="${name": ${ begins a reference that is none: write
~strategy                         | ~strategy: every run needs strategy
~seed                             | ~seed: every run needs seed
strategy.rnk=8                    | command line: strategy.rnk: unknown key; did you mean rank?
+strategy.rnk=8                   | command line: strategy.rnk: unknown key; did you mean rank?
++strategy.rnk=8                  | command line: strategy.rnk: unknown key; did you mean rank?
strategy.rank=8.5                 | command line: strategy.rank: valid integer, not 8.5
strategy.rank="8"                 | command line: strategy.rank: valid integer, not '8'
strategy.rank=true                | command line: strategy.rank: valid integer, not true
strategy.rank=0                   | command line: strategy.rank: greater than or equal to 1, not 0
~strategy.rank                    | strategy.rank: must be given, for example strategy.rank=VALUE
strategy.target_modules=3         | strategy.target_modules: 'all-linear' or a valid list, not 3
strategy=head_only strategy.rank=8 | command line: strategy.rank: unknown key
optim.learning_rat=1              | optim.learning_rat: unknown key; did you mean learning_rate?
optim.learning_rate=fast          | command line: optim.learning_rate: valid number, not 'fast'
optim.learning_rate=nan           | optim.learning_rate: finite number, not nan
optim.learning_rate=inf           | optim.learning_rate: finite number, not inf
optim.warmup=2.5                  | optim.warmup: valid integer or less than or equal to 1, not 2.5
optim.schedule=cosin              | optim.schedule: 'linear', 'cosine' or 'constant', not 'cosin'
optim.lr.inner=3                  | optim.lr: unknown key; learning_rate
optim._target_=os.system          | optim._target_: os.system is not on the allow-list
optim._target_=llmexp.optim.Adam  | optim._target_: llmexp.optim has no Adam
data.limit.trian=3                | command line: data.limit.trian: unknown key; mean train?
data.columns.txt=a                | command line: data.columns.txt: did you mean text?
data.labels=[a]                   | command line: data.labels=[a]: Cannot merge
data.train=nofile.csv             | command line: data.train: nofile.csv: no such file
data.train=ftp:foo                | data.train: ftp:foo: a source is a file or starts with hub:
data.test=specimens:foo           | data.test: no such split; known are train, validation, test
data=classification               | data.train: must be given, for example data.train=VALUE
data=imbd                         | data has no imbd.yaml; did you mean imdb?
model=local                       | model.path: must be given
model=local model.path=/nowhere   | command line: model.path: there is no folder /nowhere
model.dtype=float8                | model.dtype: 'bfloat16' or 'float16', not 'float8'
hardware=tpu                      | hardware has no tpu.yaml; did you mean gpu?
hardware=3                        | hardware=3: hardware takes one of auto, cpu
hardware.acelerator=cpu           | hardware.acelerator: did you mean accelerator?
trainer.max_epoch=3               | command line: trainer.max_epoch: did you mean max_epochs?
trainer.max_epochs=three          | trainer.max_epochs: must be int or null, not 'three'
trainer.accumulate_grad_batches=0 | trainer.accumulate_grad_batches: must be 1 or more, not 0
trainer.callbacks=[]              | trainer.callbacks: the run itself gives this argument
trainer.plugins=[]                | trainer.plugins: the run itself gives this argument
trainer.use_distributed_sampler=true | use_distributed_sampler: the run itself gives this argument
trainer.enable_checkpointing=false | enable_checkpointing: the run itself gives this argument
hardware.logger=false             | hardware.logger: the run itself gives this argument
trainer.accelerator=cpu           | command line: trainer.accelerator: hardware.accelerator same
hardware.max_epochs=2             | trainer.max_epochs: hardware.max_epochs is the same argument
callbacks.checkpoint.monitr=x     | callbacks.checkpoint.monitr: did you mean monitor?
callbacks.checkpoint.monitor=val/f1 | callbacks.checkpoint.mode: min wrong mode=max
callbacks.early_stopping.mode=max | callbacks.early_stopping.mode: max wrong val/loss mode=min
callbacks.checkpoint=3            | callbacks.checkpoint: needs a _target_, or null
+callbacks.x.y=3                  | callbacks.x: needs a _target_, or null
callbacks.x={_target_:os.system}  | callbacks.x._target_: os.system is not on the allow-list
callbacks.x={_target_:pytorch_lightning.callbacks.Nope} | pytorch_lightning.callbacks has no Nope
tracking=wandbb                   | tracking has no wandbb.yaml; did you mean wandb?
+tracking.projet=x                | command line: tracking.projet: unknown key; mean project?
cache.dirr=x                      | command line: cache.dirr: no key dirr in cache; mean dir?
cache.max_gb=-1                   | command line: cache.max_gb: greater than 0, not -1
name=../../x                      | command line: name: should match pattern
name=${nokey}                     | command line: name=${nokey}: 'nokey' not found
name=${oc.env:NOT_SET_HERE}       | 'NOT_SET_HERE' not found
data.train=${nope}                | command line: data.train=${nope}: 'nope' not found
hydra.run.dir=${nope}             | command line: hydra.run.dir=${nope}: 'nope' not found
hydra.run.dirr=x                  | hydra.run.dirr: no key dirr in hydra.run; did you mean dir?
+hydra.callbacks.x._target_=os.kill | hydra.callbacks.x._target_: os.kill is not on the allow-list
+experiment=shakespear_char       | experiment has no shakespear_char.yaml; mean shakespeare_char?
+sweep=strategis                  | sweep has no strategis.yaml; did you mean strategies?
debug=smok                        | debug has no smok.yaml; did you mean smoke?
resume=maybe                      | command line: resume: 'never' or 'auto', not 'maybe'
lora                              | command line: lora: not of the form key=value
=3                                | command line: =3: not of the form key=value
strategy==lora                    | not of the form key=value
name=${seed                       | not of the form key=value
model@backbone=gpt2               | no key model@backbone; did you mean model?
"""
FILES = {
    "strategy/typo.yaml": (
        "# @package _global_\ndefaults: [lora, _self_]\nstrategy: {rnk: 3}\n",
        "typo.yaml: strategy.rnk: unknown key; did you mean rank?",
    ),
    "strategy/packaged.yaml": (
        "# A header\n# @package _global_\nstrategy: {_target_: llmexp.strategies.lora.LoRA}\n",
        "packaged.yaml: the file's first line must be # @package _global_",
    ),
    "strategy/syntax.yaml": ("a: [1\nb: : x\n", "syntax.yaml:2: not valid YAML"),
    "strategy/base.yaml": ("defaults: [lroa, _self_]\n", "strategy has no lroa.yaml; mean lora?"),
    "experiment/option.yaml": (
        "# @package _global_\ndefaults:\n  - override /model: minlm\n",
        "model has no minlm.yaml; did you mean minilm?",
    ),
    "experiment/group.yaml": (
        "# @package _global_\ndefaults:\n  - override /modle: minilm\n",
        "experiment=group: Could not override 'modle'",
    ),
    "experiment/root.yaml": (
        "# @package _global_\nsede: 3\n",
        "root.yaml: sede: unknown key; did you mean seed?",
    ),
    "experiment/nested.yaml": (
        "# @package _global_\noptim: {learning_rat: 3}\n",
        "nested.yaml: optim.learning_rat: unknown key; did you mean learning_rate?",
    ),
    "experiment/kind.yaml": (
        "# @package _global_\ntrainer: {max_epochs: many}\n",
        "kind.yaml: trainer.max_epochs: must be int or null, not 'many'",
    ),
    "model/code.yaml": (
        "_target_: somewhere.Model\n",
        "code.yaml: model._target_: somewhere.Model is not on the allow-list",
    ),
    "model/nothing.yaml": ("", "nothing.yaml: model: needs a _target_"),
    "model/list.yaml": ("- a\n", "list.yaml: model: needs a _target_"),
}


def refusal(overrides: list[str], config_dir: Path | None = None, sweep: bool = False) -> str:
    """What is printed about a configuration; it must be refused."""
    with pytest.raises(UserError) as caught:
        folder = str(config_dir) if config_dir else None
        for job in compose_jobs(open_keys(overrides), "run", folder, sweep):
            build(job.tree, job.where)
    return report(caught.value)


def assert_says(said: str, expected: str) -> None:
    """One sentence, on one line, with every part of `expected` in order."""
    assert len(said.splitlines()) == 1, said
    assert "Traceback" not in said
    at = 0
    for word in expected.split():
        found = said.find(word, at)
        assert found >= 0, f"{word!r} is not said, or not there: {said}"
        at = found + len(word)


@pytest.mark.parametrize("line", COMMAND_LINE.strip().splitlines(), ids=lambda x: x.split("|")[0])
def test_a_bad_command_line_is_one_sentence(line: str) -> None:
    overrides, _, expected = line.partition("|")
    assert_says(refusal(overrides.split()), expected)


@pytest.mark.parametrize("file", FILES)
def test_a_bad_file_of_ones_own_is_one_sentence(file: str, tmp_path: Path) -> None:
    text, expected = FILES[file]
    path = tmp_path / file
    path.parent.mkdir()
    path.write_text(text)
    assert_says(refusal([f"{path.parent.name}={path.stem}"], tmp_path), expected)


def test_all_complaints_come_at_once() -> None:
    said = refusal(["strategy.rnk=1", "optim.lr=2", "trainer.max_epoch=3", "seed=x"])
    assert "4 things to mend" in said
    for word in ("rank?", "optim.lr", "max_epochs?", "seed"):
        assert word in said


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("strategy.rank=8,abc", "strategy.rank: integer, not 'abc'"),
        ('strategy=lora,"${name"', 'strategy=lora,"${name": ${ begins a reference that is none'),
        ("strategy=range(1,3)", "command line: strategy=1: must be a string"),
        ("strategy=glob(z)", "strategy=glob(z): matches nothing; known are feature_based"),
        ("seed=glob(*)", "seed=glob(*): matches nothing; seed is no group of files"),
    ],
)
def test_one_bad_job_of_a_sweep_stops_it_before_the_first_starts(line: str, expected: str) -> None:
    assert_says(refusal([line], sweep=True), expected)


def test_numbers_for_two_groups_are_two_complaints() -> None:
    said = refusal(["strategy=range(1,3)", "model=range(1,3)"], sweep=True)
    assert "2 things to mend" in said and "strategy=1:" in said and "model=1:" in said


def test_a_glob_is_the_files_of_a_group_that_match() -> None:
    jobs = compose_jobs(["strategy=glob(*lora)"], "run", None, True)
    assert [job.tree["choices"]["strategy"] for job in jobs] == ["lora", "qlora"]


def test_a_glob_sees_a_folder_of_ones_own(tmp_path: Path) -> None:
    (file := tmp_path / "strategy" / "small_lora.yaml").parent.mkdir()
    file.write_text("# @package _global_\ndefaults: [lora, _self_]\nstrategy: {rank: 2}\n")
    jobs = compose_jobs(["strategy=glob(*lora)"], "run", str(tmp_path), True)
    names = [job.tree["choices"]["strategy"] for job in jobs]
    assert names == ["lora", "qlora", "small_lora"]


@pytest.mark.parametrize("words", ["sede=1", "strategy=lroa", "strategy.rnk=8", "lora"])
def test_a_typo_exits_with_2_and_writes_nothing(words: str, tmp_path: Path) -> None:
    done = llmexp(tmp_path, words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def llmexp(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "run.py"), *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
