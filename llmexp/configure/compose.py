"""From a command line to checked experiments, before Hydra makes a folder or imports a class."""

from __future__ import annotations

import secrets
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from llmexp import secrets as secret
from llmexp.configure import allow, hydra_node, packages, refusals, roots, trust
from llmexp.configure.composed import LATE, Composed, conf_dir
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
    extra = [Path(config_dir).resolve()] if config_dir else []
    if config_dir and not extra[0].is_dir():
        raise ConfigError([f"command line: --config-dir: there is no folder {config_dir}"])
    search = (*extra, *plugin_search(), conf_dir())
    packages.guard()
    with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="run"):
        parsed = _parse(overrides, search, multirun)
        fixed = [o for o in parsed if not (multirun and o.is_sweep_override())]
        typed = frozenset(refusals.key_of(line) for line in overrides)
        base = _compose_one(config_name, [str(o.input_line) for o in fixed], search, typed)
        params = (base.hydra.get("sweeper") or {}).get("params") or {}
        sweeping = multirun or base.hydra.get("mode") == RunMode.MULTIRUN
        if not sweeping:
            return [base]
        lines = [*(f"{k}={v}" for k, v in params.items()), *overrides]
        jobs = job_lines(base, _parse(lines, search, True))
        composed = [_compose_one(config_name, job, search, typed) for job in jobs]
        return [replace(job, sweeps=True) for job in composed]


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


def _compose_one(
    config_name: str, overrides: list[str], search: tuple[Path, ...], typed: frozenset[str]
) -> Composed:
    """Compose, dropping each refused override in turn so that all are reported together."""
    complaints: list[str] = []
    kept = list(overrides)
    while True:
        try:
            cfg = _compose(config_name, kept, search)
            break
        except (HydraException, OmegaConfBaseException) as error:
            guilty = refusals.culprit(error, kept)
            complaints.append(_explain(error, guilty, config_name, kept, search))
            if guilty is None:
                raise ConfigError(complaints) from error
            kept.remove(guilty)
        except (AssertionError, AttributeError) as error:  # OmegaConf's answers to keys below null
            guilty = _below_null(config_name, kept, search)
            if guilty is None:
                raise ConfigError([f"conf: {refusals.first_line(error)}"]) from error
            complaints.append(refusals.below_null(guilty))
            kept.remove(guilty)
        except (YAMLError, UnicodeDecodeError) as error:
            raise ConfigError([refusals.unreadable(error)]) from error
    if complaints:
        raise ConfigError(complaints)
    return _plain(cfg, overrides, search, typed)


def _compose(config_name: str, overrides: list[str], search: tuple[Path, ...]) -> DictConfig:
    lines = [*searchpath_override(search), *overrides]
    return compose(config_name, overrides=lines, return_hydra_config=True)


def _plain(
    cfg: DictConfig, overrides: list[str], search: tuple[Path, ...], typed: frozenset[str]
) -> Composed:
    # `model=x` is the name of a file: what stands in it, nobody typed.
    typed = typed - {str(group) for group in cfg.hydra.runtime.choices}
    early = [*hydra_node.complaints(cfg, typed), *secret.complaints(cfg)]
    if early:
        raise ConfigError(f"{_giver(c, typed)}: {c}" for c in early)
    try:
        HydraConfig.instance().set_config(cfg)
    except OmegaConfBaseException as error:
        raise ConfigError([refusals.unresolved(error, overrides)]) from error
    hydra = OmegaConf.to_container(cfg.hydra, resolve=False)
    choices = {"runtime": {"choices": dict(cfg.hydra.runtime.choices)}}
    composed = Composed({}, {**hydra, **choices}, overrides, search)  # type: ignore[dict-item]
    OmegaConf.set_readonly(cfg, False)
    OmegaConf.set_struct(cfg, False)
    experiment = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    try:
        missing = sorted(OmegaConf.missing_keys(experiment))
        if missing:
            raise ConfigError(
                f"{composed.where(key)}: {key}: must be given, for example {key}=VALUE"
                for key in missing
            )
        tree = OmegaConf.to_container(experiment, resolve=True)
        OmegaConf.select(cfg, "hydra.run.dir")
        composed.hydra["sweep"]["dir"] = str(OmegaConf.select(cfg, "hydra.sweep.dir"))
    except OmegaConfBaseException as error:
        raise ConfigError([refusals.unresolved(error, overrides)]) from error
    composed.tree.update(tree)  # type: ignore[arg-type]
    composed.recorded.update(secret.recorded(experiment))
    found = allow.complaints(composed.tree)
    found += roots.complaints(cfg, composed.tree, lambda key: _is_typed(key, typed))
    found += secret.folder_complaints(cfg)
    found += trust.complaints(composed.tree, lambda key: _is_typed(key, typed))
    if found:
        raise ConfigError(f"{composed.where(c.split(': ')[0])}: {c}" for c in found)
    return composed


def _is_typed(key: str, typed: frozenset[str]) -> bool:
    """Whether the value was written on the command line, by itself or with its node."""
    return any(key == name or key.startswith(name + ".") for name in typed)


def _giver(complaint: str, typed: frozenset[str]) -> str:
    return "command line" if _is_typed(complaint.split(": ")[0], typed) else "conf"


def _below_null(config_name: str, kept: list[str], search: tuple[Path, ...]) -> str | None:
    """The override without which it composes, the last one first."""
    for line in reversed(kept):
        try:
            _compose(config_name, [other for other in kept if other != line], search)
        except (AssertionError, AttributeError, HydraException, OmegaConfBaseException):
            continue
        return line
    return None


def _explain(
    error: Exception,
    guilty: str | None,
    config_name: str,
    kept: list[str],
    search: tuple[Path, ...],
) -> str:
    """Hydra's refusal as one sentence of ours."""
    if isinstance(error, MissingConfigException):
        return refusals.missing_config(error, guilty, search)
    if isinstance(error, OmegaConfBaseException) and "interpolation" in str(error).lower():
        return refusals.unresolved(error, kept)
    if guilty is None:
        return f"conf: {refusals.first_line(error)}"
    said = f"command line: {guilty.lstrip('+')}: {refusals.first_line(error.__cause__ or error)}"
    if f"In '{guilty.replace('=', '/')}'" in said:
        return said
    try:
        cfg = _compose(config_name, [line for line in kept if line != guilty], search)
    except (HydraException, OmegaConfBaseException):
        return said
    return refusals.unknown_key(refusals.key_of(guilty), cfg) or said
