"""Secrets stay in the environment: planted ones are in no file, no line of output, no W&B run."""

from __future__ import annotations

import html
import json
import os
import shlex
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from llmexp.errors import UserError
from llmexp.jobs import job
from llmexp.jobs.results import write_result
from llmexp.secrets import hidden, masked, supplied, unsaid
from tests.test_bad_input import refusal

ROOT = Path(__file__).parents[1]
# What JSON, YAML, a shell and Python each spell in a way of their own, around what none does.
ENVIRONMENT = """pa"ss\\wo'rd&<ü 日>: environment-canary-0123 %"""
WANDB = "feed" * 10
OVERRIDE = "hf_overridecanary0123456789"
YAML = "sk-yamlcanary-0123456789"
DOTENV = "dotenv-canary-0123"
STDOUT = "ghp_stdoutcanary0123456789"
CORE = "environment-canary-0123"
CANARIES = (CORE, WANDB, OVERRIDE, YAML, DOTENV, STDOUT)
EXPERIMENT = f"""# @package _global_
tags: [{YAML}, '${{oc.env:LAB_API_KEY}}']
callbacks:
  talker: {{_target_: mylab.talker.Talker, token: '${{oc.env:LAB_API_KEY}}'}}
"""


def ran(tmp_path: Path, *overrides: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A run in a lab where canaries are planted everywhere, tracked by W&B offline."""
    lab = tmp_path / "lab"
    shutil.copytree(ROOT / "tests" / "extend", lab)
    (lab / "conf" / "experiment").mkdir()
    (lab / "conf" / "experiment" / "told.yaml").write_text(EXPERIMENT)
    (lab / ".env").write_text(f"LAB_SECRET={DOTENV}\n")
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{lab}",
        "OMP_NUM_THREADS": "1",
        "LLMEXP_ALLOW": "mylab",
        "LAB_API_KEY": ENVIRONMENT,
        "WANDB_API_KEY": WANDB,
        "WANDB_MODE": "offline",
        "LLMEXP_CACHE": str(tmp_path / "cache"),
    }
    words = ["strategy=bitfit", "data=moods", "+experiment=told", "data.batch_size=4"]
    tiny = ["model._target_=llmexp.debug.TinyModel", f"model.folder={lab}/tiny"]
    note = f"callbacks.talker.note={OVERRIDE}"
    command = [sys.executable, str(ROOT / "run.py"), "--config-dir", "conf"]
    done = subprocess.run(
        [*command, *words, *tiny, "trainer.max_epochs=1", note, *overrides],
        cwd=lab,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done, lab / "outputs"


def assert_nothing_told(done: subprocess.CompletedProcess[str], outputs: Path) -> None:
    """No canary is in the output, in a file's name, or in a file's bytes."""
    files = [path for path in outputs.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    held = {path.name: path.read_bytes() for path in files}
    for canary in CANARIES:
        assert canary not in done.stdout + done.stderr
        assert not [path for path in outputs.rglob("*") if canary in path.name]
        assert not [name for name, data in held.items() if canary.encode() in data], canary


def test_no_planted_secret_is_told(tmp_path: Path) -> None:
    """From the environment, an override, YAML, `.env` and what a callback prints and logs."""
    done, outputs = ran(tmp_path, "hydra.run.dir=outputs/mine", "hydra.output_subdir=.hydra")
    assert done.returncode == 0, done.stderr
    # The callback itself was given the secrets.
    assert f"given {len(ENVIRONMENT)} characters: ***" in done.stdout
    assert f"read {len(DOTENV)} characters: ***" in done.stdout
    for file in ("result.json", "provenance.json"):
        assert json.loads((outputs / "mine" / file).read_text())["remote_code"] is None
    written = (outputs / "mine" / "config.yaml").read_text()
    assert "token: ${oc.env:LAB_API_KEY}" in written and "note: '***'" in written
    assert "talker.note=***" in (outputs / "mine" / ".hydra" / "overrides.yaml").read_text()
    assert_nothing_told(done, outputs)


@pytest.mark.long
def test_a_job_of_a_sweep_that_fails_does_not_tell_either(tmp_path: Path) -> None:
    done, outputs = ran(tmp_path, "-m", "seed=0,1", "callbacks.talker.fail=true")
    assert done.returncode == 1
    results = [json.loads(path.read_text()) for path in outputs.rglob("result.json")]
    assert len(results) == 2
    assert ["401 for ***" in result["reason"] for result in results] == [True, True], results
    assert len(list(outputs.rglob("console.log"))) == 2
    assert_nothing_told(done, outputs)


@pytest.mark.parametrize(
    "line",
    [
        "++tracking.api_key=abc",
        "++tracking.hub_token=abc",
        "++callbacks.early_stopping.password=abc",
        "model.architecture={secret: abc}",
        "model.architecture={a: [{client_secret: abc}]}",
        "++tracking.api_key='${oc.env:HF_KEY,abc}'",
        "++tracking.accessToken=abc",
        "++tracking.api-key=abc",
        "++tracking.passphrase=abc",
        "++tracking.auth=abc",
    ],
)
def test_a_secret_as_text_is_refused_and_not_repeated(line: str) -> None:
    said = refusal([line])
    assert "holds a secret as text; put it in an environment variable" in said
    assert "abc" not in said and len(said.splitlines()) == 1


def test_a_secret_does_not_name_a_folder() -> None:
    assert "hydra.run.dir: would write something shaped like a secret" in refusal(
        [f"name={OVERRIDE}"]
    )


@pytest.mark.parametrize("key", ["project", "entity"])
def test_a_secret_names_nothing_that_wandb_shows(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_API_KEY", CORE)
    said = refusal(["tracking=wandb", f"tracking.{key}=${{oc.env:LAB_API_KEY}}"])
    assert f"tracking.{key}: holds a secret, and W&B shows it" in said
    assert CORE not in said and len(said.splitlines()) == 1


def test_classes_and_columns_may_be_called_what_they_are() -> None:
    """`data.labels` and `data.columns` hold a data set's own words."""
    tree = {"data": {"labels": {"password": "asks about it"}, "columns": {"token": "word"}}}
    assert masked(tree) == tree


def test_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "correct horse")
    for text in (
        OVERRIDE,
        YAML,
        STDOUT,
        "AKIAIOSFODNN7EXAMPLE",
        "xoxb-123456789012-abcdef",
        "correct horse",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-def",
    ):
        assert hidden(f"a {text} b") == "a *** b"
    assert hidden("postgres://me:pw@host/db") == "postgres://***@host/db"
    assert hidden("-----BEGIN RSA PRIVATE KEY-----\nabc\n") == "***"
    for harmless in ("a" * 40, "task-classification-model", "sk-learn-pipeline-of-words", "x@y.z"):
        assert hidden(harmless) == harmless
    assert hidden(hidden(OVERRIDE)) == hidden(OVERRIDE)


@pytest.mark.parametrize(
    "name",
    ["DB_PASSWORD", "MYSQL_PWD", "PGPWD", "OPENAI_KEY", "AZURE_STORAGE_KEY", "X_AUTH", "apiToken"],
)
@pytest.mark.parametrize(
    "write",
    [
        str,
        repr,
        json.dumps,
        lambda text: json.dumps(text, ensure_ascii=False),
        lambda text: json.dumps({"a": {text: [text]}}),
        lambda text: yaml.safe_dump([text], allow_unicode=True, width=1000),
        lambda text: yaml.safe_dump([text], allow_unicode=True, width=1000, default_style="'"),
        lambda text: yaml.safe_dump([text], allow_unicode=True, width=1000, default_style='"'),
        lambda text: yaml.safe_dump({"a": text}, width=1000),
        lambda text: shlex.join(["a", f"tags=[{text}]"]),
        html.escape,
        urllib.parse.quote,
        urllib.parse.quote_plus,
    ],
)
def test_a_secret_is_hidden_however_it_is_spelt(
    name: str, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CORE in write(ENVIRONMENT)
    monkeypatch.setenv(name, ENVIRONMENT)
    assert CORE not in hidden(f"401 for {write(ENVIRONMENT)}!")


def test_a_secret_is_hidden_before_yaml_folds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long words go on in the next line, where no text that is looked for is found any more."""
    monkeypatch.setenv("DB_PASSWORD", secret := " ".join(["correct horse"] * 20))
    assert masked({"a": [f"1 {secret}"]}) == {"a": ["1 ***"]}
    write_result(tmp_path, {"reason": f"401 for {secret}", secret: [secret]})
    assert json.loads((tmp_path / "result.json").read_text()) == {
        "reason": "401 for ***",
        "***": ["***"],
    }


def test_what_is_no_secret_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one stands, the path of a key's file, and our own keys."""
    (tmp_path / "a.key").touch()
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setenv("SSH_KEY", str(tmp_path / "a.key"))
    assert hidden(f"see {tmp_path / 'a.key'}") == f"see {tmp_path / 'a.key'}"
    for file in [*(ROOT / "conf").rglob("*.yaml")]:
        tree = OmegaConf.to_container(OmegaConf.load(file))
        assert masked(tree) == tree, file
    for name in ("tokens_per_batch", "tokenizer", "max_new_tokens", "sort_key", "authors", "keys"):
        assert masked({name: "a value"}) == {name: "a value"}


def test_an_error_that_quotes_an_override_hides_its_value() -> None:
    assert (
        unsaid("command line: tracking.api_key=(x: not") == "command line: tracking.api_key=*** not"
    )
    assert unsaid("tracking.accessToken=abc seed=1") == "tracking.accessToken=*** seed=1"
    assert unsaid("a: data.tokens_per_batch=512") == "a: data.tokens_per_batch=512"
    assert unsaid("token=${oc.env:X}") == "token=${oc.env:X}"


def test_a_recorded_config_reads_nothing_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in a run folder is data: only the run's own command says what is looked up."""
    monkeypatch.setenv("LAB_API_KEY", ENVIRONMENT)
    monkeypatch.delenv("LLMEXP_SECRETS", raising=False)
    tree = {"callbacks": {"x": {"token": "${oc.env:LAB_API_KEY}"}}}
    with pytest.raises(UserError, match="reads nothing from the environment"):
        supplied(tree)
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(tree)))
    with pytest.raises(UserError, match="reads nothing from the environment"):
        job.main([str(tmp_path)])
    monkeypatch.setenv("LLMEXP_SECRETS", "LAB_API_KEY")
    assert supplied(tree)["callbacks"]["x"]["token"] == ENVIRONMENT
