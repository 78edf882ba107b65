"""Any override, file, row or template gives a result or one sentence, and nothing half-done.

The same few examples each time in the normal suite, and many others each time in the long one,
which tells its seed; `FUZZ_SEED=N` in the environment gives it again.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from llmexp import cli
from llmexp.configure.compose import compose_jobs, open_keys
from llmexp.configure.preflight import build
from llmexp.data import templates
from llmexp.data.bad_rows import refuse
from llmexp.data.readers import READERS
from llmexp.data.sources import canonical_rows, load_examples, quick_check
from llmexp.errors import UserError
from llmexp.hardware import build_trainer, check_devices
from llmexp.jobs import job
from llmexp.jobs.record import Record
from llmexp.jobs.results import begun, write_result
from llmexp.prompts import LabelPrompts, template_complaints
from llmexp.tasks.classification import Classification
from llmexp.tasks.instruction import Instruction
from llmexp.tasks.language_modeling import LanguageModeling
from llmexp.tracking.base import NoTracking
from tests import runs, tiny

SILENT = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
TASKS = (Classification, Instruction, LanguageModeling)
Check = Callable[..., None]
SEED = int(os.environ["FUZZ_SEED"])


def within(seconds: float) -> Any:
    """Look at no further examples once so much time is spent: a slow machine sees fewer."""

    def limit(test: Check) -> Check:
        began: list[float] = []

        @functools.wraps(test)
        def limited(*args: Any, **kwargs: Any) -> None:
            began[:] = began or [time.monotonic()]
            if time.monotonic() - began[0] < seconds:
                try:
                    test(*args, **kwargs)
                except BaseException:
                    print(f"FUZZ_SEED={SEED}")
                    raise

        return limited

    return limit


def bounded(examples: int) -> Any:
    # Without shrinking: a failure is shown as it was found, and costs no minutes.
    return settings(
        phases=[Phase.explicit, Phase.generate],
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=SILENT,
    )


def fuzzed(examples: int) -> Any:
    """As `bounded`, but what nobody has tried before."""

    def test(check: Check) -> Check:
        return seed(SEED)(settings(bounded(examples), derandomize=False)(check))

    return test


def assert_sentence(error: UserError) -> None:
    """Sentences, each on one line, and no trace."""
    said = cli.report(error)
    lines = said.splitlines()
    assert said.startswith("llmexp: ") and "Traceback" not in said
    complaints = getattr(error, "complaints", [said])
    assert len(lines) == (1 if len(complaints) == 1 else len(complaints) + 1), said


# ---------------------------------------------------------------------------------- overrides
GROUPS = ["strategy", "model", "data", "optim", "trainer", "callbacks", "tracking", "hardware"]
KEYS = [
    *GROUPS,
    "seed",
    "name",
    "tags",
    "objective",
    "cache",
    "cache.dir",
    "cache.max_gb",
    "choices",
    "resume",
    "experiment",
    "sweep",
    "debug",
    "strategy.rank",
    "strategy.target_modules",
    "model.path",
    "model.architecture",
    "model.dropout",
    "model.revision",
    "data.train",
    "data.test",
    "data.limit",
    "data.limit.train",
    "data.columns",
    "data.labels",
    "data.pattern",
    "data.delimiter",
    "data.encoding",
    "optim.learning_rate",
    "trainer.max_epochs",
    "trainer.plugins",
    "callbacks.checkpoint",
    "callbacks.x",
    "hydra.run.dir",
    "hydra.run",
    "hydra.sweep.dir",
    "hydra.sweep.subdir",
    "hydra.job.name",
    "hydra.job.env_set",
    "hydra.sweeper.params",
    "hydra.sweeper.params.seed",
    "hydra.launcher",
    "hydra.launcher.n_jobs",
    "hydra.callbacks",
    "hydra.searchpath",
    "hydra.output_subdir",
    "hydra.mode",
    "hydra.verbose",
    "hydra/launcher",
    "hydra/job_logging",
    "hydra",
]
VALUES = [
    "",
    "null",
    "true",
    "0",
    "-1",
    "1e-4",
    "nan",
    "lora",
    "gpt2",
    "local",
    "x.csv",
    "[]",
    "{}",
    "[1,2]",
    "{a: 1}",
    "{_target_: os.system}",
    "[{_target_: llmexp.models.HFModel}]",
    "a,b",
    "range(1,3)",
    "choice(a,b)",
    "glob(*)",
    "???",
    "${name}",
    "${nope}",
    "${seed}",
    "${oc.env:HOME}",
    "${oc.decode:1}",
    "${data}",
    "'a b'",
    '"${name"',
    "\\",
    "hub:a/b:train",
    "python:os.getcwd",
    "pydocs:topics:train",
    "package:os/x",
    "../x",
    "MULTIRUN",
    "(?P<text>.*",
]
WORD = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
NAMED = st.sampled_from(KEYS)
KEY = st.one_of(NAMED, NAMED, WORD, st.builds("{}.{}".format, NAMED, WORD))
VALUE = st.one_of(st.sampled_from(VALUES), st.sampled_from(VALUES), WORD)
SIGN = st.sampled_from(["", "", "", "+", "++", "~"])
EQUALS = st.sampled_from(["=", "=", "=", "", "=="])
OVERRIDE = st.builds("{}{}{}{}".format, SIGN, KEY, EQUALS, VALUE)


def is_override(line: str) -> bool:
    """Not an option of the command line, and none of the keys by which this test stays dry."""
    return bool(line) and line[0] != "-" and not any(word in line for word in ("dry", "preview"))


OVERRIDES = st.lists(OVERRIDE.filter(is_override), min_size=1, max_size=3)


def any_override(overrides: list[str], sweep: bool) -> None:
    """The whole command but for the run; where that is said to be sound, also how a run begins."""
    options = ["-m"] if sweep else []
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = cli.main(["run", *options, *overrides, "dry=true"])
    except UserError as error:
        assert_sentence(error)
    else:
        assert code == 0
        if not sweep:
            ready(overrides)
    assert not list(Path.cwd().iterdir())


def ready(overrides: list[str]) -> None:
    """What passed the checks can be written down, read back and made: the next steps of a run."""
    first, *more = compose_jobs(open_keys(overrides), "run", None, False)
    if more or not first.tree["data"]:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = runs.begun(first, Path(name))
        tree, _ = job.read_config(folder)
        assert json.dumps(tree) == json.dumps(first.recorded)  # nan is nan
        e = build(tree)
        try:
            check_devices(e.config.hardware)
            tracked = replace(e, tracking=NoTracking())
            context: Any = SimpleNamespace(strategy=e.strategy, folder=folder)
            build_trainer(tracked, context, Record(tracked, folder))
        except UserError as error:
            assert_sentence(error)


@bounded(25)
@given(overrides=OVERRIDES, sweep=st.booleans())
def test_any_override_is_a_result_or_a_sentence(
    overrides: list[str], sweep: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with contextlib.chdir(tmp_path_factory.getbasetemp().joinpath("empty")):
        any_override(overrides, sweep)


@pytest.mark.long
@fuzzed(1000)
@given(overrides=OVERRIDES, sweep=st.booleans())
@within(90)
def test_many_overrides_are_results_or_sentences(
    overrides: list[str], sweep: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with contextlib.chdir(tmp_path_factory.getbasetemp().joinpath("empty")):
        any_override(overrides, sweep)


@pytest.fixture(scope="module", autouse=True)
def empty(tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path_factory.getbasetemp().joinpath("empty").mkdir(exist_ok=True)


# -------------------------------------------------------------------------------------- files
JSON: Any = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
COLUMNS = ("text", "label", "text_pair", "prompt", "completion", "instruction", "input", "output")
LISTS = ("messages", "conversations", "system", "labels")
TURN = st.dictionaries(st.sampled_from(["role", "content", "from", "value"]), JSON, max_size=3)
ROW = st.dictionaries(
    st.one_of(st.sampled_from(COLUMNS + LISTS), st.text(max_size=5)),
    st.one_of(st.text(max_size=10), JSON, st.lists(TURN, max_size=3)),
    max_size=5,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "on_bad_row": st.sampled_from(["raise", "skip"]),
        "quoting": st.sampled_from(["minimal", "none"]),
        "delimiter": st.sampled_from([",", ";", "\\t"]),
        "encoding": st.sampled_from(["utf-8", "latin-1", "utf-16", "utf-32", "ascii"]),
        "pattern": st.sampled_from([r"(?P<label>\w) (?P<text>.*)", "(?P<text>.*)", "(a)"]),
        "columns": st.dictionaries(st.sampled_from(COLUMNS), st.text(max_size=5), max_size=2),
        "max_bad_rows": st.sampled_from([0, 1, 0.5]),
        "streaming": st.booleans(),
    },
)


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def table(rows: list[dict[str, str]]) -> bytes:
    buffer = io.BytesIO()
    columns = {"text": [str(row) for row in rows], "label": ["a"] * len(rows)}
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def damaged(data: bytes, at: int, bytes_: bytes) -> bytes:
    """Some bytes of it replaced: headers and lengths are where readers fall."""
    at = at % (len(data) + 1)
    return data[:at] + bytes_ + data[at + len(bytes_) :]


ROWS = st.lists(ROW, max_size=6)
CONTENT = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    ROWS.map(lines),
    ROWS.map(lambda rows: json.dumps(rows).encode()),
    st.builds(damaged, ROWS.map(lines), st.integers(0, 500), st.binary(max_size=4)),
    st.builds(damaged, ROWS.map(table), st.integers(0, 5000), st.binary(max_size=8)),
    st.lists(st.lists(st.text(max_size=6), max_size=4).map(",".join), max_size=6).map(
        lambda found: "\n".join(["text,label", *found]).encode("utf-8", "surrogatepass")
    ),
)


def any_file(folder: Path, content: bytes, ending: str, kind: Any, fields: dict[str, Any]) -> None:
    path = folder / f"rows{ending}"
    path.write_bytes(content)
    try:
        task = kind(train=str(path), **fields)
    except ValueError:
        return  # said by the spec, before any file is opened
    try:
        if not quick_check(task):
            examples = load_examples(task)
            assert examples.train or getattr(task, "streaming", False)
    except UserError as error:
        assert_sentence(error)


FILE = {
    "content": CONTENT,
    "ending": st.sampled_from(sorted(READERS)),
    "kind": st.sampled_from(TASKS),
    "fields": FIELDS,
}


@bounded(100)
@given(**FILE)
def test_any_file_is_rows_or_a_sentence(tmp_path: Path, **case: Any) -> None:
    any_file(tmp_path, **case)


@pytest.mark.long
@fuzzed(5000)
@given(**FILE)
@within(60)
def test_many_files_are_rows_or_sentences(tmp_path: Path, **case: Any) -> None:
    any_file(tmp_path, **case)


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    (composed,) = compose_jobs(["tracking=none", "hardware=cpu"], "run", None, False)
    return composed.recorded


@bounded(20)
@given(**FILE, made=st.booleans())
@within(20)
def test_a_job_refused_for_its_rows_leaves_a_whole_folder_or_none(
    recorded: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
    content: bytes,
    ending: str,
    kind: Any,
    fields: dict[str, Any],
    made: bool,
) -> None:
    """`made`: the folder is the run's own; where it was there before, it says what happened."""
    place = tmp_path_factory.mktemp("refused")
    (rows := place / f"rows{ending}").write_bytes(content)
    node = {"_target_": f"{kind.__module__}.{kind.__qualname__}", "train": str(rows), **fields}
    folder = place / "run"
    folder.mkdir()
    # One epoch of what is good, never: a model that is not there is refused after the rows.
    model = {**recorded["model"], "path": str(place / "nowhere")}
    tree = {**recorded, "data": node, "model": model}
    launch = {"overrides": [], "sweep": False}
    (folder / "config.yaml").write_text(OmegaConf.to_yaml({**tree, "launch": launch}))
    write_result(folder, begun(folder, tree, [], []))
    # Asked for once: the job takes it out of its environment.
    os.environ[job.MADE] = str(folder.resolve()) if made else ""
    with pytest.raises(UserError) as caught, contextlib.redirect_stdout(io.StringIO()):
        job.main([str(folder)])
    assert_sentence(caught.value)
    assert folder.exists() != made
    if not made:
        assert json.loads((folder / "result.json").read_text())["status"] == "failed"
        assert job.read_config(folder)[0]["data"] == node
        rest = {path.name for path in folder.iterdir()} - {"config.yaml", "result.json", ".lock"}
        assert not [name for name in rest if name != "provenance.json"], rest


# --------------------------------------------------------------------------------------- rows
@bounded(80)
@given(rows=ROWS, kind=st.sampled_from(TASKS), fields=FIELDS)
def test_any_row_is_canonical_or_a_sentence(
    rows: list[dict[str, Any]], kind: Any, fields: dict[str, Any], tmp_path: Path
) -> None:
    """And what is canonical can be written down and has its texts as texts."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(rows))
    try:
        task = kind(train=str(path), **{**fields, "encoding": "utf-8"})
        for _, _, row in canonical_rows(task, str(path), refuse):
            assert set(row) <= {"text", "text_pair", "label", "messages"}
            assert isinstance(row.get("text", ""), str)
            assert all(isinstance(turn["content"], str) for turn in row.get("messages", []))
            json.dumps(row)
    except UserError as error:
        assert_sentence(error)
    except ValueError as error:
        assert "validation error" in str(error)


# ---------------------------------------------------------------------------------- templates
PIECES = st.sampled_from(
    [
        "{{ messages }}",
        "{{ messages[0].content }}",
        "{{ messages[9]['content'] }}",
        "{% for m in messages %}",
        "{{ m.role }}{{ m.content }}",
        "{{ m['content'] | trim }}",
        "{% endfor %}",
        "{% if add_generation_prompt %}",
        "{% else %}",
        "{% endif %}",
        "{{ bos_token }}",
        "{{ eos_token }}",
        "{{ raise_exception('no') }}",
        "{{ ''.__class__ }}",
        "{{ 1 / 0 }}",
        "{{ messages + 1 }}",
        "{{ nothing.at.all }}",
        "{{ messages | tojson }}",
        "{{ x() }}",
        "{% set a = 1 %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{",
        "}}",
        "{%",
        "answer: ",
        "\n",
    ]
)
TEMPLATE = st.lists(st.one_of(PIECES, st.text(max_size=6)), max_size=6).map("".join)
TALK = st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=4).map(
    lambda said: [
        {"role": ("user", "assistant")[i % 2], "content": text}
        for i, text in enumerate(said[: len(said) // 2 * 2])
    ]
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.tokenizer()


def any_template(source: str, talk: list[dict[str, str]], tokenizer: Any, folder: Path) -> None:
    file = folder / "own.jinja"
    file.write_text(source, encoding="utf-8", errors="surrogatepass")
    try:
        templates.install(tokenizer, str(file))
        ids, turns = templates.Template(tokenizer).encode(talk)
        assert len(turns) == len(talk) // 2
        assert all(len(turn) == len(ids) for turn in turns)
    except UserError as error:
        assert_sentence(error)


@bounded(80)
@given(source=TEMPLATE, talk=TALK)
def test_any_chat_template_renders_or_is_a_sentence(
    source: str, talk: list[dict[str, str]], tokenizer: Any, tmp_path: Path
) -> None:
    any_template(source, talk, tokenizer, tmp_path)


@pytest.mark.long
@fuzzed(5000)
@given(source=TEMPLATE, talk=TALK)
@within(60)
def test_many_chat_templates_render_or_are_sentences(
    source: str, talk: list[dict[str, str]], tokenizer: Any, tmp_path: Path
) -> None:
    any_template(source, talk, tokenizer, tmp_path)


PROMPT = st.sampled_from(["{text}", "{labels}", "{x}", "\n\n", "{", "}", "{{text}}"])


@bounded(60)
@given(
    source=st.lists(st.one_of(PROMPT, WORD), max_size=5).map("".join),
    words=st.lists(WORD.filter(str.strip), min_size=2, max_size=3, unique=True),
    text=st.text(st.characters(codec="utf-8"), max_size=80),
)
def test_any_prompt_is_refused_or_fits(
    source: str, words: list[str], text: str, tokenizer: Any
) -> None:
    if template_complaints(source):
        return
    made = LabelPrompts(source, {w: w for w in words}, tokenizer, text_length=16, prompt_length=64)
    example = {"text": "a", "label": words[0]}
    try:
        prompt = made.build({"text": text}, [example, example])
    except UserError as error:
        assert_sentence(error)
    else:
        assert len(prompt.ids) + max(map(len, made.continuations)) <= 64
