"""From a command line to checked experiments, before Hydra makes a folder or imports a class."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

from hydra._internal.hydra import Hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from llmexp.configure import refusals
from llmexp.configure.composed import LATE, Composed, conf_dir
from llmexp.configure.judge import judged
from llmexp.configure.loader import JudgedLoader, opened
from llmexp.errors import ConfigError
from llmexp.sweeps import names  # noqa: F401  registers ${llmexp.sweep:} and ${llmexp.job:}
from llmexp.sweeps.settings import job_lines

# Two runs started in the same second get folders of their own.
OmegaConf.register_new_resolver("llmexp.id", lambda: secrets.token_hex(2), use_cache=True)


# Nodes whose keys a spec or a signature checks by name: better than Hydra can, because a class
# knows every key it takes and a YAML only those that somebody wrote.
CHECKED = ("strategy", "model", "data", "optim", "trainer", "hardware", "callbacks", "tracking")

# The overrides of a named sweep, by key.
PARAMS = "hydra.sweeper.params"


def open_keys(overrides: list[str]) -> list[str]:
    """Let `model.dropout=0` set a key that the YAML does not spell out, without Hydra's `+`.

    And let `+experiment=X` mean `experiment=X`: appended, it would come after debug, and a group
    that has a default cannot be appended at all.
    """
    opened = []
    for line in overrides:
        key = line.partition("=")[0]
        if key.startswith("+") and key[1:] in (*LATE, *CHECKED):
            line, key = line[1:], key[1:]
        group, dot, _ = key.partition(".")
        free = (dot and group in CHECKED) or key.startswith("hydra.sweeper.space")
        opened.append(f"++{line}" if free and not line.startswith("+") else _param(line))
    return opened


def _param(line: str) -> str:
    """`hydra.sweeper.params.seed=1,2` as Hydra takes it: that node is null until it is given."""
    key, _, value = line.lstrip("+").partition("=")
    if not key.startswith(f"{PARAMS}."):
        return line
    quoted = value.strip("'\"").replace("'", "\\'")
    return f"++{PARAMS}={{{key.removeprefix(f'{PARAMS}.')}: '{quoted}'}}"


def compose_jobs(
    overrides: list[str], config_name: str, config_dir: str | None, multirun: bool
) -> list[Composed]:
    """Compose one job, or every job of a sweep; raises ConfigError with nearest valid names."""
    search = search_of(config_dir)
    typed = typed_in(overrides)
    with opened(search, typed) as hydra:
        composer = Composer(hydra.config_loader, config_name)
        parsed = _parse(overrides, search, multirun)
        fixed = [o for o in parsed if not (multirun and o.is_sweep_override())]
        base = composer.job([str(o.input_line) for o in fixed])
        params = (base.hydra.get("sweeper") or {}).get("params") or {}
        sweeping = multirun or base.hydra.get("mode") == RunMode.MULTIRUN
        if not sweeping:
            return [base]
        lines = [*(f"{k}={v}" for k, v in params.items()), *overrides]
        jobs = job_lines(base, _parse(lines, search, True))
        return [replace(composer.job(job), sweeps=True) for job in jobs]


@contextmanager
def opened_for(overrides: list[str], config_dir: str | None) -> Iterator[tuple[Hydra, list[str]]]:
    """Hydra as the checks had it, and the overrides for it."""
    search = search_of(config_dir)
    with opened(search, typed_in(overrides)) as hydra:
        yield hydra, [*searchpath_override(search), *overrides]


def typed_in(overrides: list[str]) -> frozenset[str]:
    """The keys that a person wrote on the command line."""
    return frozenset(refusals.key_of(line) for line in overrides)


def search_of(config_dir: str | None) -> tuple[Path, ...]:
    """Where YAML lies: a folder that a person named, those of plugins, ours."""
    extra = [Path(config_dir).resolve()] if config_dir else []
    if config_dir and not extra[0].is_dir():
        raise ConfigError([f"command line: --config-dir: there is no folder {config_dir}"])
    return (*extra, *plugin_search(), conf_dir())


def plugin_search() -> tuple[Path, ...]:
    """YAML groups of installed plugins: an entry point `llmexp.conf` names a package's folder."""
    from llmexp.configure.signatures import module_file

    found = (module_file(point.module) for point in entry_points(group="llmexp.conf"))
    return tuple(file.parent for file in found if file is not None)


def searchpath_override(search: tuple[Path, ...]) -> list[str]:
    """The override that puts folders other than our own on Hydra's search path."""
    others = [f"file://{path}" for path in search if path != conf_dir()]
    return [f"hydra.searchpath=[{','.join(others)}]"] if others else []


def _parse(overrides: list[str], search: tuple[Path, ...], sweeping: bool) -> list[Override]:
    parser = OverridesParser.create()
    complaints, parsed = [], []
    for line in overrides:
        try:
            override = parser.parse_override(line)
        except HydraException:
            complaints.append(refusals.misspelt(line))
            continue
        misuse = refusals.misused(override, search, sweeping)
        complaints += [misuse] if misuse else []
        parsed.append(override)
    if complaints:
        raise ConfigError(complaints)
    return parsed


class Composer:
    """Composes single jobs of one page, and says in sentences why one does not compose."""

    def __init__(self, loader: JudgedLoader, config_name: str):
        self.loader, self.config_name = loader, config_name

    def job(self, overrides: list[str]) -> Composed:
        """Compose, dropping each refused override in turn so that all are reported together."""
        complaints: list[str] = []
        kept = list(overrides)
        while True:
            try:
                cfg = self._composed(kept)
                break
            except (HydraException, OmegaConfBaseException) as error:
                guilty = refusals.culprit(error, kept)
                complaints.append(self._explain(error, guilty, kept))
                if guilty is None:
                    raise ConfigError(complaints) from error
                kept.remove(guilty)
            except (AssertionError, AttributeError) as error:  # OmegaConf, of keys below null
                guilty = self._below_null(kept)
                if guilty is None:
                    raise ConfigError([f"conf: {refusals.first_line(error)}"]) from error
                complaints.append(refusals.below_null(guilty))
                kept.remove(guilty)
            except (YAMLError, UnicodeDecodeError) as error:
                raise ConfigError([refusals.unreadable(error)]) from error
        if complaints:
            raise ConfigError(complaints)
        return judged(cfg, overrides, self.loader.search, self.loader.typed)

    def _composed(self, overrides: list[str]) -> DictConfig:
        lines = [*searchpath_override(self.loader.search), *overrides]
        return self.loader.unjudged(self.config_name, lines)

    def _below_null(self, kept: list[str]) -> str | None:
        """The override without which it composes, the last one first."""
        for line in reversed(kept):
            try:
                self._composed([other for other in kept if other != line])
            except (AssertionError, AttributeError, HydraException, OmegaConfBaseException):
                continue
            return line
        return None

    def _explain(self, error: Exception, guilty: str | None, kept: list[str]) -> str:
        """Hydra's refusal as one sentence of ours."""
        if isinstance(error, MissingConfigException):
            return refusals.missing_config(error, guilty, self.loader.search)
        if isinstance(error, OmegaConfBaseException) and "interpolation" in str(error).lower():
            return refusals.unresolved(error, kept)
        if guilty is None:
            return f"conf: {refusals.first_line(error)}"
        key = guilty.lstrip("+")
        said = f"command line: {key}: {refusals.first_line(error.__cause__ or error)}"
        if f"In '{guilty.replace('=', '/')}'" in said:
            return said
        try:
            cfg = self._composed([line for line in kept if line != guilty])
        except (HydraException, OmegaConfBaseException):
            return said
        return refusals.unknown_key(refusals.key_of(guilty), cfg) or said
