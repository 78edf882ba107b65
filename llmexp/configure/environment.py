"""`${oc.env:NAME}`: a config may look into the environment, not at what our processes say there.

They tell each other which secrets to look up and which code is trusted; a config that read it could
be one when it is judged and another when it runs.
"""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf
from omegaconf.resolvers import oc

OWN = "LLMEXP_"
# What a person sets.
OPEN = ("LLMEXP_CACHE", "LLMEXP_ROOT", "LLMEXP_ALLOW")


def env(name: str, *default: Any) -> Any:
    """A variable, or the default where there is none."""
    if str(name).startswith(OWN) and name not in OPEN:
        raise ValueError(f"the variable {name} is between the processes of llmexp")
    return oc.env(name, *default)


def register() -> None:
    """For every config of this process."""
    OmegaConf.register_new_resolver("oc.env", env, replace=True)
