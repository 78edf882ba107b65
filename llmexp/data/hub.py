"""Rows from the Hugging Face hub: `hub:OWNER/NAME[/CONFIG][@REVISION]:SPLIT`."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from llmexp.data.lines import Located, RawRow
from llmexp.errors import UserError

SYNTAX = "hub:OWNER/NAME[/CONFIG][@REVISION]:SPLIT"
LOCATOR = re.compile(
    r"hub:(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<config>[^/@:]+))?(?:@(?P<revision>[^:]+))?"
    r":(?P<split>[^:/]+(?:\[.*\])?)"
)


@dataclass(frozen=True)
class HubSet:
    """One split of one dataset repository."""

    repo: str
    split: str
    config: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, locator: str) -> HubSet:
        match = LOCATOR.fullmatch(locator)
        # A name of dots alone would be a folder above this one.
        if match is None or any(not part.strip(".") for part in match["repo"].split("/")):
            raise UserError(f"{locator}: not of the form {SYNTAX}")
        return cls(**match.groupdict())

    @property
    def fetch_command(self) -> str:
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"hf download --repo-type dataset {self.repo}{revision}"


def read_hub(locator: str) -> Iterator[Located]:
    """(where, raw row) of each row, class numbers replaced by class names."""
    source = HubSet.parse(locator)
    table = load(source)
    names = class_names(table)
    for number, row in enumerate(table, start=1):
        yield f"{locator}: row {number}", with_names(row, names)


def class_names(table: Any) -> dict[str, list[str]]:
    """The names of the numbers in each column of classes; a stream may know no columns."""
    features = table.features or {}
    return {c: feature.names for c, feature in features.items() if hasattr(feature, "int2str")}


def with_names(row: RawRow, names: dict[str, list[str]]) -> RawRow:
    for column, classes in names.items():
        # -1 is how the hub marks a test split whose labels are kept secret.
        value = row[column]
        row[column] = None if value is None or value < 0 else classes[value]
    return row


def load(source: HubSet, streaming: bool = False) -> Any:
    """The split as a table: from the hub when it answers, else from what is on this machine."""
    import datasets

    reachable = hub_answers()
    try:
        with _offline(not reachable):
            return datasets.load_dataset(
                source.repo,
                source.config,
                split=source.split,
                revision=source.revision,
                streaming=streaming,
            )
    except faults() as error:
        if reachable:
            raise failed(source, error) from None
    return _load_snapshot(source, streaming)


def _load_snapshot(source: HubSet, streaming: bool) -> Any:
    """The split from files that `hf download` left in the local cache."""
    import datasets
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            source.repo, repo_type="dataset", revision=source.revision, local_files_only=True
        )
        with _offline(True):
            return datasets.load_dataset(
                folder, source.config, split=source.split, streaming=streaming
            )
    except FileNotFoundError:
        # LocalEntryNotFoundError is one; so is "no data files in this folder".
        raise UserError(
            f"data: the hub set {source.repo} is not on this machine and the hub cannot be "
            f"reached; fetch it where there is a network: {source.fetch_command}"
        ) from None
    except faults() as error:
        raise failed(source, error) from None


def failed(source: HubSet, error: BaseException) -> UserError:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(f"data: the hub set {source.repo}: {said}")


def faults() -> tuple[type[Exception], ...]:
    """What the libraries raise for a set that is not there, is gated, broken, or out of reach."""
    import datasets
    import httpx

    # OSError: no repository, no such file, no connection. ValueError: an unknown config or split.
    # RuntimeError: a repository that is a script.
    return OSError, ValueError, RuntimeError, httpx.HTTPError, datasets.exceptions.DatasetsError


def hub_answers(seconds: float = 3.0) -> bool:
    """Whether a connection to the hub opens; asked because the libraries retry for 20 s."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies():  # then a direct connection says nothing
        return True
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=seconds).close()
    except OSError:
        return False
    return True


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Both libraries in offline mode: they read the environment once, when first imported."""
    import datasets
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    if wanted:
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
