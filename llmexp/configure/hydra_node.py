"""What Hydra's own node may hold: Hydra imports, calls and writes what stands there by itself.

It does so before our main function starts, so everything is judged while it is still text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from llmexp.configure import allow, packages
from llmexp.configure.composed import is_typed
from llmexp.configure.roots import NAME
from llmexp.errors import UserError

Found = Iterator[tuple[str, str]]
# Nodes of which Hydra makes objects.
MADE = ("callbacks", "launcher", "sweeper", "job_logging", "hydra_logging")
LOGGING = ("job_logging", "hydra_logging")
LOGGING_CLASSES = (
    "logging.StreamHandler",
    "logging.NullHandler",
    "logging.FileHandler",
    "logging.Formatter",
    "colorlog.ColoredFormatter",
)
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
IN_THE_RUN = re.compile(
    r"\$\{hydra\.(runtime\.output_dir|sweep\.dir)\}/(?!.*\.\.)(\$\{hydra\.job\.name\}|[\w./-])+",
    re.ASCII,
)
# Interpolations that give one text, whenever they are looked at; a time holds no line break.
TEXTS = re.compile(
    r"\$\{(hydra[.:](run\.dir|sweep\.(dir|subdir)|job\.(name|num|id|override_dirname)"
    r"|runtime\.(output_dir|cwd|choices\.[\w/@-]+))|now:(%[aAbBdfHIjmMpSuUVwWyYz]|[\w:., -])*"
    r"|oc\.env:[^${}]*|llmexp\.(id|sweep|job):[^${}]*)\}",
    re.ASCII,
)
# Where Hydra makes folders: looked up again when it makes them.
FOLDERS = ("run.dir", "sweep.dir", "sweep.subdir", "output_subdir")
REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\}", re.ASCII)
# A batch script is made of these: shell commands, an interpreter, options of sbatch and srun.
SHELL = ("setup", "teardown", "python", "srun_args", "additional_parameters")
SUBMITIT = "hydra_plugins.hydra_submitit_launcher"


def complaints(cfg: DictConfig, typed: frozenset[str]) -> list[str]:
    """One sentence for each thing in `cfg.hydra` that would run code or change the process.

    `typed` are the keys that a person wrote on the command line.
    """
    raw: Any = OmegaConf.to_container(cfg.hydra, resolve=False)
    found = [*_interpolated(raw, cfg), *_targets(raw), *_job(raw), *_search(raw)]
    for part in LOGGING:
        found += list(_logging(raw.get(part), part))
    found += [*_callbacks(raw.get("callbacks")), *_launcher(raw.get("launcher"), typed)]
    found += _sweep(raw.get("sweeper"))
    return [f"hydra.{key}: {why}" for key, why in found]


def late_complaints(cfg: DictConfig, typed: frozenset[str]) -> list[str]:
    """What is judged once interpolations can be resolved, and may not change from then on."""
    node: Any = OmegaConf.to_container(cfg.hydra.launcher, resolve=True)
    return [f"hydra.{key}: {why}" for key, why in (*_lines(node), *_folders(cfg, typed))]


def _interpolated(raw: dict[str, Any], cfg: DictConfig) -> Found:
    """What is looked up when Hydra runs may not be what was looked at here."""
    for part in MADE:
        for key, name, value in [(part, part, raw.get(part)), *allow.named(raw.get(part), part)]:
            if not isinstance(value, str) or "${" not in value:
                continue
            if name in ("_target_", "class", "()") or not _is_text(value, cfg):
                yield key, f"{value:.80} may not stand here, where Hydra runs what it makes"


def _is_text(value: str, cfg: DictConfig, depth: int = 0) -> bool:
    """Whether every interpolation in it gives a plain text or number, now and later."""
    rest = value
    # The innermost first: ${oc.env:A,${oc.env:B}} is a text as well.
    while (shorter := TEXTS.sub("", rest)) != rest:
        rest = shorter
    for key in REFERENCE.findall(rest):
        held = _raw_at(cfg, key)
        if isinstance(held, (dict, list)) or depth > 5:
            return False
        if isinstance(held, str) and not _is_text(held, cfg, depth + 1):
            return False
    return "${" not in REFERENCE.sub("", rest)


def _raw_at(cfg: DictConfig, key: str) -> Any:
    node: Any = OmegaConf.to_container(cfg, resolve=False)
    for part in key.split("."):
        # An interpolation on the way could lead anywhere.
        node = node.get(part, {}) if isinstance(node, dict) else {}
    return node


def _targets(raw: dict[str, Any]) -> Found:
    allowed = allow.prefixes(inside_hydra=True)
    for key, name, value in allow.named(raw):
        if name in ("_args_", "_partial_"):
            yield key, "is not used here: name a class and its arguments"
        elif name == "_target_":
            try:
                allow.resolve(value, allowed)
            except UserError as error:
                yield key, str(error)


def _job(raw: dict[str, Any]) -> Found:
    job = raw.get("job")
    job = job if isinstance(job, dict) else {}
    for name in ("env_set", "env_copy"):
        if job.get(name):
            yield f"job.{name}", "YAML sets no environment variables; set them in the shell"
    if job.get("chdir"):
        yield "job.chdir", "a run stays in the folder it was started from; leave it out"
    if not NAME.fullmatch(str(job.get("name", "run"))):
        yield "job.name", f"{job['name']!s:.80} is no name: letters, digits, dots, dashes"


def _folders(cfg: DictConfig, typed: frozenset[str]) -> Found:
    for key in FOLDERS:
        value = _raw_at(cfg, f"hydra.{key}")
        told = is_typed(f"hydra.{key}", typed)
        if isinstance(value, str) and not told and not _is_text(value, cfg):
            yield key, f"{value:.80} may be another folder when it is made; give it as a plain text"


def _callbacks(node: Any) -> Found:
    for name, value in (node if isinstance(node, dict) else {}).items():
        made_up = isinstance(value, str) and "${" in value
        if not made_up and not (isinstance(value, dict) and "_target_" in value):
            yield f"callbacks.{name}", "needs a _target_ that names its class"


def _search(raw: dict[str, Any]) -> Found:
    """A package on the search path is imported, to find the files in it."""
    places = raw.get("searchpath")
    for place in places if isinstance(places, list) else [places] if places else []:
        ours = packages.is_allowed(str(place).removeprefix("pkg://").replace("/", "."))
        if not (str(place).startswith("file://") or ours) or "${" in str(place):
            yield "searchpath", f"{place!s:.80} is no file://FOLDER; --config-dir FOLDER adds one"


def _logging(node: Any, part: str) -> Found:
    """`logging.config` imports what stands at `class` and `()`, and behind `ext://`."""
    for key, name, value in allow.named(node, part):
        if name in ("class", "()") and value not in LOGGING_CLASSES:
            yield key, f"{value!s:.80} is not a logging class; known: {', '.join(LOGGING_CLASSES)}"
        elif isinstance(value, str) and "://" in value and value not in STREAMS:
            yield key, f"{value:.80} may not stand here; streams are {' and '.join(STREAMS)}"
        elif name == "filename" and not IN_THE_RUN.fullmatch(str(value)):
            yield key, "a log lies in the run's folder: ${hydra.runtime.output_dir}/NAME.log"
        elif name != "filename" and isinstance(value, str) and "${" in value:
            yield key, f"{value:.80} may not stand here: it could become an address"
        elif name == ".":
            yield key, "sets what a log's handler holds, which its class takes by name"
    for key, name, value in allow.named(node, part):
        items = value if isinstance(value, list) else []
        if any(isinstance(item, str) and "://" in item for item in items):
            yield key, f"{name} holds an address, and a log is written to the run's folder"


def _launcher(node: Any, typed: frozenset[str]) -> Found:
    if not isinstance(node, dict):
        yield "launcher", "needs a _target_; leave it out to take Hydra's own"
    trusted = SUBMITIT in allow.widened()
    yield from _lines(node)
    for key, name, value in allow.named(node, "launcher"):
        if name in SHELL and value and not trusted and f"hydra.{key}" not in typed:
            yield (
                key,
                f"runs commands on the cluster; if you trust this file, start with "
                f"LLMEXP_ALLOW={SUBMITIT} in the environment, or give it on the command line",
            )


def _lines(node: Any) -> Found:
    """Every text in it is a line of a batch script, those in lists and those that are keys too."""
    for key, name, value in allow.named(node, "launcher"):
        inside = value if isinstance(value, list) else [value]
        if not all(str(text).isprintable() for text in [name, *inside]):
            yield key, "holds a line break or another control character"


def _sweep(node: Any) -> Found:
    if not isinstance(node, dict):
        yield "sweeper", "needs a _target_; leave it out to take Hydra's own"
    params = node.get("params") if isinstance(node, dict) else None
    for name in params if isinstance(params, dict) else ():
        if str(name).lstrip("+~").split(".")[0].split("/")[0].split("@")[0] == "hydra":
            yield f"sweeper.params.{name}", "a sweep varies the experiment, never Hydra itself"
