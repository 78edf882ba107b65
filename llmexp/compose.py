"""From a command line to checked experiments, before Hydra makes a folder or imports a class."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llmexp import allow
from llmexp.errors import ConfigError, did_you_mean

PACKAGE = Path(__file__).parent
# Two runs started in the same second get folders of their own.
OmegaConf.register_new_resolver("llmexp.id", lambda: secrets.token_hex(2), use_cache=True)


def conf_dir() -> Path:
    """The YAML groups: inside an installed wheel, or beside the package in a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


# Optional groups, in the order of run.yaml's defaults list.
LATE = ("sweep", "experiment", "debug")
# Nodes whose keys a spec or a signature checks by name: better than Hydra can, because a class
# knows every key it takes and a YAML only those that somebody wrote.
CHECKED = ("strategy", "model", "data", "optim", "trainer", "hardware", "callbacks", "tracking")


def open_keys(overrides: list[str]) -> list[str]:
    """Let `model.dropout=0` set a key that the YAML does not spell out, without Hydra's `+`.

    And let `+experiment=X` mean `experiment=X`: appended, it would come after debug.
    """
    opened = []
    for line in overrides:
        key = line.partition("=")[0]
        if key.startswith("+") and key[1:] in LATE:
            line, key = line[1:], key[1:]
        group, dot, _ = key.partition(".")
        opened.append(f"++{line}" if dot and group in CHECKED else line)
    return opened


@dataclass(frozen=True)
class Composed:
    """One composed job: a plain resolved tree, Hydra's node, and the overrides behind it."""

    tree: dict[str, Any]
    hydra: dict[str, Any]
    overrides: list[str]
    search: tuple[Path, ...]

    def where(self, key: str) -> str:
        """Which file, or the command line, gave `key` its value."""
        for override in self.overrides:
            name = override.split("=")[0].lstrip("+~").split("@")[0]
            if key and "." in name and (key == name or key.startswith(name + ".")):
                return "command line"
        group = key.split(".")[0].split("[")[0]
        option = self.hydra["runtime"]["choices"].get(group)
        leaf = re.escape(key.split(".")[-1].split("[")[0])
        for file in self._files(group, option):
            if "." not in key or re.search(rf"^\s*{leaf}\s*:", file.read_text(), re.M):
                return f"conf/{file.parent.name}/{file.name}"
        return f"conf/{group}/{option}.yaml" if option else "conf/run.yaml"

    def _files(self, group: str, option: str | None) -> Iterator[Path]:
        choices = self.hydra["runtime"]["choices"]
        late = [(g, choices.get(g)) for g in reversed(LATE)]
        for folder, name in [*late, (group, option)]:
            for root in self.search if name else ():
                if (root / folder / f"{name}.yaml").is_file():
                    yield root / folder / f"{name}.yaml"


def compose_jobs(
    overrides: list[str], config_name: str, config_dir: str | None, multirun: bool
) -> list[Composed]:
    """Compose one job, or every job of a sweep; raises ConfigError with nearest valid names."""
    extra = [Path(config_dir).resolve()] if config_dir else []
    if config_dir and not extra[0].is_dir():
        raise ConfigError([f"command line: --config-dir: there is no folder {config_dir}"])
    search = (*extra, *plugin_search(), conf_dir())
    with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="run"):
        parsed = _parse(overrides)
        fixed = [o for o in parsed if not (multirun and o.is_sweep_override())]
        base = _compose_one(config_name, [str(o.input_line) for o in fixed], search)
        params = base.hydra.get("sweeper", {}).get("params") or {}
        sweeping = multirun or base.hydra.get("mode") == RunMode.MULTIRUN
        if not sweeping:
            return [base]
        lines = [*(f"{k}={v}" for k, v in params.items()), *overrides]
        batches = BasicSweeper.split_arguments(_parse(lines), max_batch_size=None)
        return [_compose_one(config_name, list(job), search) for batch in batches for job in batch]


def plugin_search() -> tuple[Path, ...]:
    """YAML groups of installed plugins: an entry point `llmexp.conf` names a package's folder."""
    from llmexp.signatures import module_file

    found = (module_file(point.module) for point in entry_points(group="llmexp.conf"))
    return tuple(file.parent for file in found if file is not None)


def searchpath_override(search: tuple[Path, ...]) -> list[str]:
    """The override that puts folders other than our own on Hydra's search path."""
    others = [f"file://{path}" for path in search if path != conf_dir()]
    return [f"hydra.searchpath=[{','.join(others)}]"] if others else []


def _parse(overrides: list[str]) -> list[Override]:
    parser = OverridesParser.create()
    complaints, parsed = [], []
    for line in overrides:
        try:
            parsed.append(parser.parse_override(line))
        except OverrideParseException as error:
            first = str(error).splitlines()[0]
            complaints.append(
                f"command line: {line}: {first}; write key=value, and quote values that hold "
                "spaces, commas or brackets"
            )
    if complaints:
        raise ConfigError(complaints)
    return parsed


def _compose_one(config_name: str, overrides: list[str], search: tuple[Path, ...]) -> Composed:
    """Compose, dropping each refused override in turn so that all are reported together."""
    complaints: list[str] = []
    kept = list(overrides)
    while True:
        try:
            lines = [*searchpath_override(search), *kept]
            cfg = compose(config_name, overrides=lines, return_hydra_config=True)
            break
        except (HydraException, OmegaConfBaseException) as error:
            culprit = _culprit(error, kept)
            complaints.append(_explain(error, culprit, config_name, kept, search))
            if culprit is None:
                raise ConfigError(complaints) from error
            kept.remove(culprit)
    if complaints:
        raise ConfigError(complaints)
    return _plain(cfg, overrides, search)


def _plain(cfg: DictConfig, overrides: list[str], search: tuple[Path, ...]) -> Composed:
    HydraConfig.instance().set_config(cfg)
    hydra = OmegaConf.to_container(cfg.hydra, resolve=False)
    choices = {"runtime": {"choices": dict(cfg.hydra.runtime.choices)}}
    composed = Composed({}, {**hydra, **choices}, overrides, search)  # type: ignore[dict-item]
    OmegaConf.set_readonly(cfg, False)
    OmegaConf.set_struct(cfg, False)
    missing = sorted(k for k in OmegaConf.missing_keys(cfg) if not k.startswith("hydra."))
    if missing:
        raise ConfigError(
            f"{composed.where(key)}: {key}: must be given, for example {key}=VALUE"
            for key in missing
        )
    names = [key for key in cfg if key != "hydra"]
    try:
        tree = OmegaConf.to_container(OmegaConf.masked_copy(cfg, names), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([f"{_first_line(error)}"]) from error
    composed.tree.update(tree)  # type: ignore[arg-type]
    found = allow.complaints(composed.tree, composed.hydra)
    if found:
        raise ConfigError(f"{composed.where(c.split(': ')[0])}: {c}" for c in found)
    return composed


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _culprit(error: Exception, overrides: list[str]) -> str | None:
    """The override that Hydra's message is about, if it is about one."""
    text = f"{error}"
    for line in overrides:
        key = line.split("=")[0].lstrip("+~")
        group, _, option = line.lstrip("+~").partition("=")
        if re.search(rf"'{re.escape(key)}'", text) or f"'{group}/{option}'" in text:
            return line
        if re.search(rf"(override|merging|full_key:) '?{re.escape(key)}\b", text):
            return line
    return None


def _explain(
    error: Exception, culprit: str | None, config_name: str, kept: list[str], search: Any
) -> str:
    """Hydra's refusal as our sentence, naming the nearest valid key (hydra #1912)."""
    if isinstance(error, MissingConfigException):
        return _missing_config(error, culprit)
    if culprit is None:
        return f"conf: {_first_line(error)}"
    key = culprit.split("=")[0].lstrip("+~")
    if "interpolation" in str(error).lower():
        return f"command line: {culprit}: {_first_line(error)}"
    others = [line for line in kept if line != culprit]
    try:
        lines = [*searchpath_override(search), *others]
        cfg = compose(config_name, overrides=lines, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException):
        return f"command line: {culprit}: {_first_line(error)}"
    parent, _, leaf = key.rpartition(".")
    known = _keys_below(cfg, parent)
    while parent and not known:
        parent, _, leaf = parent.rpartition(".")
        known = _keys_below(cfg, parent)
    if leaf in known:
        return f"command line: {culprit}: {_first_line(error)}"
    inside = f" in {parent}" if parent else ""
    return f"command line: {key}: there is no key {leaf}{inside}; {did_you_mean(leaf, known)}"


def _keys_below(cfg: DictConfig, parent: str) -> list[str]:
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if not isinstance(node, DictConfig):
        return []
    names = [str(key) for key in node if key != "_target_"]
    return names if parent else [n for n in names if n not in ("hydra", "choices")]


def _missing_config(error: MissingConfigException, culprit: str | None) -> str:
    missing = error.missing_cfg_file or ""
    group, _, option = missing.rpartition("/")
    options = list(error.options or [])
    place = f"command line: {culprit}" if culprit else "conf"
    if options:
        hint = did_you_mean(option, options)
        return f"{place}: {group} has no {option}.yaml; {hint}\n  {group}: {', '.join(options)}"
    return f"{place}: {_first_line(error)}"
