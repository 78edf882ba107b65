"""What a composed config may be: judged as text, then resolved, whoever had it composed."""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llmexp import secrets as secret
from llmexp.configure import allow, environment, hydra_node, refusals, roots, trust
from llmexp.configure.composed import Composed, is_typed
from llmexp.errors import ConfigError

# Before anything is composed: whoever composes brings this module along.
environment.register()


def judged(
    cfg: DictConfig, overrides: list[str], search: tuple[Path, ...], typed: frozenset[str]
) -> Composed:
    """The job that `cfg` describes; ConfigError where it would run code or write elsewhere."""
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
    try:
        _resolve(cfg, composed)
        found = hydra_node.late_complaints(cfg, typed) + allow.complaints(composed.tree)
    except OmegaConfBaseException as error:
        raise ConfigError([refusals.unresolved(error, overrides)]) from error
    found += roots.complaints(cfg, composed.tree, lambda key: is_typed(key, typed))
    found += secret.folder_complaints(cfg)
    found += trust.complaints(composed.tree, lambda key: is_typed(key, typed))
    if found:
        raise ConfigError(f"{composed.where(c.split(': ')[0])}: {c}" for c in found)
    return composed


def _resolve(cfg: DictConfig, composed: Composed) -> None:
    """Fill in the experiment's values, from one look at the clock and at what is random."""
    OmegaConf.set_readonly(cfg, False)
    OmegaConf.set_struct(cfg, False)
    experiment = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    missing = sorted(OmegaConf.missing_keys(experiment))
    if missing:
        raise ConfigError(
            f"{composed.where(key)}: {key}: must be given, for example {key}=VALUE"
            for key in missing
        )
    OmegaConf.copy_cache(from_config=cfg, to_config=experiment)
    tree = OmegaConf.to_container(experiment, resolve=True)
    OmegaConf.copy_cache(from_config=experiment, to_config=cfg)
    OmegaConf.select(cfg, "hydra.run.dir")
    composed.hydra["sweep"]["dir"] = str(OmegaConf.select(cfg, "hydra.sweep.dir"))
    composed.tree.update(tree)  # type: ignore[arg-type]
    composed.recorded.update(secret.recorded(experiment))


def _giver(complaint: str, typed: frozenset[str]) -> str:
    return "command line" if is_typed(complaint.split(": ")[0], typed) else "conf"
