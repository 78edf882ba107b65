"""Nothing that looks like a secret is written down: they come from the environment, and stay there.

A config says `${oc.env:NAME}`; what is recorded says so too, and the run's own processes, which
are told the name by the one that composed, look it up again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from llmexp.errors import UserError
from llmexp.spellings import spellings

WORDS = (
    r"((access|account|api|auth|encryption|private|secret|signing)_?key|auth|authorization|bearer"
    r"|credentials?|passphrase|passwd|password|pwd|secret|token)"
)
KEY = re.compile(rf"(^|_){WORDS}($|_)", re.IGNORECASE)
# PGPASSWORD has no boundary in front; OPENAI_KEY is one, a config's sort_key is not.
VARIABLE = re.compile(
    rf"(^|_){WORDS}($|_)|(PASSWORD|PASSWD|PWD|SECRET|TOKEN|(^|_)KEY)$", re.IGNORECASE
)
# Where the shell is and was.
NO_SECRETS = ("PWD", "OLDPWD")
VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|sk-(?=[\w-]*\d)[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}"
    r"|github_pat_\w{16,}|xox[abeprs]-[\w-]{10,}|AIza[\w-]{30,}|(AKIA|ASIA)[A-Z0-9]{12,}"
    r"|wandb_v\d_\w{16,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+)"
    r"|(?<=://)[^\s/:@]+:[^\s/@]+(?=@)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)"
)
# An override that is quoted back, in an error.
GIVEN = re.compile(r"([\w.+~@/-]+)(\s*=\s*)(?!\$\{oc\.env:)(\S+)")
FROM_ENVIRONMENT = re.compile(r"\$\{oc\.env:(\w+)(,\s*(null|''|\"\")?\s*)?\}")
# Here keys are a data set's own words: a column, a class.
OWN_WORDS = ("data.columns", "data.labels")
MASK = "***"
SHORTEST = 8
NAMES = "LLMEXP_SECRETS"


def hidden(text: str) -> str:
    """A text without anything shaped like a secret, or that is one of this environment's."""
    text = VALUE.sub(MASK, text)
    for value in known():
        text = text.replace(value, MASK)
    return text


def known() -> list[str]:
    """Values of environment variables that are named like secrets, as they may be written."""
    named = (name for name in os.environ if VARIABLE.search(_words(name)))
    return _forms(tuple(sorted({os.environ[n].strip() for n in named if n not in NO_SECRETS})))


def _words(name: str) -> str:
    """`accessToken` and `api-key` as `access_Token` and `api_key`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_")


@lru_cache(maxsize=64)
def _forms(values: tuple[str, ...]) -> list[str]:
    """The values in every spelling, longest first; the path of a file is no secret."""
    meant = [v for v in values if len(v) >= SHORTEST]
    meant = [v for v in meant if not (v[0] in "/~." and os.path.lexists(v))]
    return sorted({form for value in meant for form in spellings(value)}, key=len, reverse=True)


def unsaid(text: str) -> str:
    """An error without the secrets somebody typed: it quotes overrides, line ends and all."""
    return "\\n".join(GIVEN.sub(_ungiven, hidden(text)).splitlines())


def _ungiven(given: re.Match[str]) -> str:
    leaf = given[1].rpartition(".")[2].lstrip("+~")
    return f"{given[1]}{given[2]}{MASK}" if is_named_secret(leaf, "") else given[0]


def leaves_hidden(node: Any) -> Any:
    """A plain tree whose every text is `hidden`, names too; before it is written in any syntax."""
    if isinstance(node, dict):
        return {leaves_hidden(k): leaves_hidden(v) for k, v in node.items()}
    if isinstance(node, (list, tuple)):
        return [*map(leaves_hidden, node)]
    return hidden(node) if isinstance(node, str) else node


def masked(node: Any, key: str = "", path: str = "") -> Any:
    """A plain tree with every text that is named or shaped like a secret hidden."""
    if isinstance(node, dict):
        inner = {str(name): f"{path}.{name}".lstrip(".") for name in node}
        return {k: masked(v, str(k), inner[str(k)]) for k, v in node.items()}
    if isinstance(node, (list, tuple)):
        return [masked(value, key, path) for value in node]
    if not isinstance(node, str) or FROM_ENVIRONMENT.fullmatch(node):
        return node
    return MASK if is_named_secret(key, path) and node else hidden(node)


def is_named_secret(key: str, path: str) -> bool:
    return KEY.search(_words(key)) is not None and not path.startswith(OWN_WORDS)


def complaints(cfg: DictConfig) -> list[str]:
    """One sentence for each secret that stands in a config itself."""
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    return [
        f"{path}: holds a secret as text; put it in an environment variable and write "
        f"{path}=${{oc.env:NAME}}"
        for path, key, value in _leaves(raw)
        if isinstance(value, str) and value and is_named_secret(key, path)
        if not FROM_ENVIRONMENT.fullmatch(value)
    ]


def folder_complaints(cfg: DictConfig) -> list[str]:
    """One sentence where a secret would become the name of a run or of a folder."""
    keys = ("name", "hydra.run.dir", "hydra.sweep.dir")
    places = {key: str(OmegaConf.select(cfg, key)) for key in keys}
    return [
        f"{key}: would write something shaped like a secret into a folder's name"
        for key, place in places.items()
        if hidden(place) != place
    ]


def _leaves(node: Any, path: str = "", key: str = "") -> Iterator[tuple[str, str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, f"{path}.{name}".lstrip("."), str(name))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _leaves(value, f"{path}[{i}]", key)
    else:
        yield path, key, node


def recorded(cfg: DictConfig) -> dict[str, Any]:
    """A composed config as it may be written: resolved, but for what is secret.

    From here on this process and those it starts may look those variables up again.
    """
    raw = OmegaConf.to_container(cfg, resolve=False)
    names: set[str] = set(filter(None, os.environ.get(NAMES, "").split(",")))
    tree: Any = _recorded(raw, OmegaConf.to_container(cfg, resolve=True), "", "", names)
    if names:
        os.environ[NAMES] = ",".join(sorted(names))
    return dict(tree)


def _recorded(raw: Any, value: Any, key: str, path: str, names: set[str]) -> Any:
    if isinstance(value, dict):
        held = raw if isinstance(raw, dict) else {}
        return {
            k: _recorded(held.get(k), v, str(k), f"{path}.{k}".lstrip("."), names)
            for k, v in value.items()
        }
    if isinstance(value, list):
        inner = raw if isinstance(raw, list) else [None] * len(value)
        return [_recorded(r, v, key, path, names) for r, v in zip(inner, value, strict=True)]
    shown = masked(value, key, path)
    meant = FROM_ENVIRONMENT.fullmatch(raw) if isinstance(raw, str) else None
    if shown != value and meant:
        names.add(meant[1])
        return f"${{oc.env:{meant[1]}}}"
    return shown


def supplied(node: Any, path: str = "") -> Any:
    """A recorded tree with its secrets, as far as this process was told which it may look up."""
    if isinstance(node, dict):
        return {k: supplied(v, f"{path}.{k}".lstrip(".")) for k, v in node.items()}
    if isinstance(node, list):
        return [supplied(value, path) for value in node]
    meant = FROM_ENVIRONMENT.fullmatch(node) if isinstance(node, str) else None
    if meant is None:
        return node
    if meant[1] not in os.environ.get(NAMES, "").split(","):
        raise UserError(
            f"config.yaml: {path}: a recorded config reads nothing from the environment; start "
            f"the run by its own command, with {path}={node}"
        )
    return os.environ.get(meant[1])
