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
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from llmexp.configure import refusals
from llmexp.configure.composed import LATE, Composed, conf_dir
from llmexp.configure.composer import Composer
from llmexp.configure.loader import JudgedLoader, opened, searchpath_override
from llmexp.errors import ConfigError
from llmexp.sweeps import names  # noqa: F401  registers ${llmexp.sweep:} and ${llmexp.job:}
from llmexp.sweeps.settings import job_lines

# Two runs started in the same second get folders of their own.
OmegaConf.register_new_resolver(
    "llmexp.id", lambda: secrets.token_hex(4), replace=True, use_cache=True
)


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
        free = (dot and group in CHECKED) or key == PARAMS or key.startswith("hydra.sweeper.space")
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
        assert isinstance(hydra.config_loader, JudgedLoader)
        composer = Composer(loader := hydra.config_loader, config_name)
        parsed = _parse(overrides, loader, multirun)
        fixed = [o for o in parsed if not (multirun and o.is_sweep_override())]
        base = composer.job([str(o.input_line) for o in fixed])
        params = (base.hydra.get("sweeper") or {}).get("params") or {}
        sweeping = multirun or base.hydra.get("mode") == RunMode.MULTIRUN
        if not sweeping:
            return [base]
        lines = [*(f"{k}={v}" for k, v in params.items()), *overrides]
        jobs = job_lines(base, _parse(lines, loader, True))
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


def _parse(overrides: list[str], loader: JudgedLoader, sweeping: bool) -> list[Override]:
    parser = OverridesParser.create(loader)  # glob(*) asks it for the files of a group
    complaints, parsed = [], []
    for line in overrides:
        try:
            (override,) = parser.parse_overrides([line])
        except HydraException:
            complaints.append(refusals.misspelt(line))
            continue
        misuse = refusals.misused(override, loader.search, sweeping)
        complaints += [misuse] if misuse else []
        parsed.append(override)
    if complaints:
        raise ConfigError(complaints)
    return parsed
