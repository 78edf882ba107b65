"""The node `hydra.sweeper` of a search, and the jobs that must compose before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins

from llmexp.config import NonNegativeInt, PositiveInt, spec
from llmexp.errors import ConfigError
from llmexp.metrics import Direction, direction
from llmexp.sweeps.launcher import SweepLauncher
from llmexp.sweeps.space import Choice, Range, Space, leaves, of_override, probes, without

if TYPE_CHECKING:
    from llmexp.configure.composed import Composed


@spec
class Settings:
    """How a search goes."""

    space: dict[str, Any]
    """By key: {low, high, log, step} or {choices}; sweeps on the command line are added."""
    n_trials: PositiveInt
    """Trials in all, however often the search is started."""
    objective: str
    """A key of `result.json`; which way it is better is known of every metric of ours."""
    minimize: list[str]
    maximize: list[str]
    """Objectives by their direction, such as val/accuracy and cost/total_seconds, instead."""
    prune: bool
    """With one objective: stop a trial that is worse than the median at the same validation."""
    startup_trials: NonNegativeInt
    """Random ones, before the sampler and the pruner judge by what they have seen."""
    seed: NonNegativeInt

    @property
    def objectives(self) -> dict[str, Direction]:
        """Direction by key."""
        found: dict[str, Direction] = dict.fromkeys(self.minimize, "minimize")
        found |= dict.fromkeys(self.maximize, "maximize")
        return found or {self.objective: direction(self.objective) or "minimize"}

    def complaints(self) -> list[str]:
        """What a search would get wrong."""
        found = [
            f"hydra.sweeper.{said}: {key} is better where it is "
            f"{'lower' if right == 'minimize' else 'higher'}; name it in hydra.sweeper.{right}"
            for said, keys in (("minimize", self.minimize), ("maximize", self.maximize))
            for key in keys
            if (right := direction(key)) not in (None, said)
        ]
        both = sorted({*self.minimize} & {*self.maximize})
        found += [f"hydra.sweeper.maximize: {key} is in minimize, too" for key in both]
        if not self.minimize and not self.maximize and direction(self.objective) is None:
            found.append(
                f"objective: {self.objective} is no metric of llmexp, so say which way it is "
                f"better: hydra.sweeper.minimize=[{self.objective}] or maximize"
            )
        return found

    def note(self) -> str | None:
        """What to say of objectives that a search can follow, and better would not."""
        seen = [key for key in self.objectives if key.startswith("test/")]
        if not seen:
            return None
        return (
            f"note: {', '.join(seen)} chooses on the test set, so that the best trial's score "
            "there is too good; an objective such as val/accuracy keeps it for the end"
        )


def space_of(settings: Settings, overrides: Sequence[Override]) -> Space:
    """The ranges of YAML and of the command line; a key that is given a value is not searched."""
    fixed, swept = fixed_and_swept(overrides)
    space: Space = {}
    complaints = []
    for key, node in leaves(settings.space):
        place = f"hydra.sweeper.space.{key}"
        space[key] = _made(node, place)
        why = space[key].complaint()
        complaints += [f"{place}: {why}"] if why else []
    swept_keys = [*space, *(o.key_or_group for o in swept)]
    ours = [key for key in swept_keys if key.split(".")[0].split("/")[0] == "hydra"]
    complaints += [f"{key}: a search varies the experiment, never Hydra itself" for key in ours]
    given = [line.lstrip("+").partition("=")[0] for line in fixed]
    space = without(space, given) | {o.key_or_group: of_override(o) for o in swept}
    if not space:
        complaints.append("hydra.sweeper.space: nothing to search; give a range for some key")
    if complaints:
        raise ConfigError(complaints)
    return space


def _made(node: dict[str, Any], place: str) -> Range | Choice:
    from llmexp.configure.preflight import make

    complaints: list[str] = []
    cls = Choice if "choices" in node else Range
    made = make(cls, node, place, lambda key: "conf", complaints)
    if complaints:
        raise ConfigError(complaints)
    return made


def fixed_and_swept(overrides: Sequence[Override]) -> tuple[list[str], list[Override]]:
    """Overrides with one value as text, and those with several."""
    swept = [o for o in overrides if o.is_sweep_override()]
    fixed = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
    return fixed, swept


def job_lines(base: Composed, overrides: Sequence[Override]) -> list[list[str]]:
    """The overrides of every job of a sweep; of a search, of a few jobs at its ends."""
    from llmexp.sweeps.search import Search

    sweeper = dict(base.hydra.get("sweeper") or {})
    if not is_a(Search, sweeper.pop("_target_", "")):
        batches = BasicSweeper.split_arguments(list(overrides), max_batch_size=None)
        return [list(line) for batch in batches for line in batch]
    settings = _checked(sweeper, base)
    fixed, _ = fixed_and_swept(overrides)
    found = probes(space_of(settings, overrides))
    return [lines(fixed, probe) for probe in found]


def lines(fixed: list[str], values: dict[str, str]) -> list[str]:
    """The overrides of one trial."""
    from llmexp.configure.compose import open_keys

    return [*fixed, *open_keys([f"{key}={value}" for key, value in values.items()])]


def is_a(base: type, target: str) -> bool:
    """Whether `target` names a plugin that is a `base`."""
    found = Plugins.instance().class_name_to_class.get(target)
    return found is not None and issubclass(found, base)


def _filled(node: Any, objective: str) -> Any:
    """The node with `${objective}` in place."""
    if isinstance(node, dict):
        return {key: _filled(value, objective) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, objective) for value in node]
    return node.replace("${objective}", objective) if isinstance(node, str) else node


def _checked(node: dict[str, Any], base: Composed) -> Settings:
    from llmexp.configure.preflight import make

    complaints: list[str] = []
    # Hydra resolves its node later.
    node = _filled(node, base.tree["objective"])
    settings = make(Settings, node, "hydra.sweeper", base.where, complaints)
    complaints += settings.complaints() if settings is not None else []
    if not is_a(SweepLauncher, (base.hydra.get("launcher") or {}).get("_target_", "")):
        complaints.append("hydra/launcher: a search needs one of ours: local or submitit_slurm")
    if complaints:
        raise ConfigError(complaints)
    return settings
