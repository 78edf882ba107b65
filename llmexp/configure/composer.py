"""Single jobs of one page, composed and judged."""

from __future__ import annotations

from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from llmexp.configure import refusals
from llmexp.configure.composed import Composed
from llmexp.configure.judge import judged
from llmexp.configure.loader import JudgedLoader, searchpath_override
from llmexp.errors import ConfigError

# What OmegaConf says of keys below null, and Hydra of a group that is given a number.
TRACES = (AssertionError, AttributeError, ValueError)


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
            except (YAMLError, UnicodeDecodeError) as error:
                raise ConfigError([refusals.unreadable(error)]) from error
            except TRACES as error:
                said = refusals.first_line(error)
                guilty = self._guilty(kept)
                if guilty is None:
                    raise ConfigError([*complaints, f"conf: {said}"]) from error
                below = not isinstance(error, ValueError)
                line = f"command line: {guilty.lstrip('+')}: {said}"
                complaints.append(refusals.below_null(guilty) if below else line)
                kept.remove(guilty)
        if complaints:
            raise ConfigError(complaints)
        return judged(cfg, overrides, self.loader.search, self.loader.typed)

    def _composed(self, overrides: list[str]) -> DictConfig:
        lines = [*searchpath_override(self.loader.search), *overrides]
        return self.loader.unjudged(self.config_name, lines)

    def _guilty(self, kept: list[str]) -> str | None:
        """The override without which it composes, the last one first."""
        for line in reversed(kept):
            try:
                self._composed([other for other in kept if other != line])
            except (*TRACES, HydraException, OmegaConfBaseException):
                continue
            return line
        return next(filter(self._alone, kept), None)  # there are several

    def _alone(self, line: str) -> bool:
        """Whether it is refused by itself."""
        try:
            self._composed([line])
        except TRACES:
            return True
        except (HydraException, OmegaConfBaseException):
            pass
        return False

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
