"""A folder of an attacker's, with code in it that would make a file that must never come to be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest


class Trap:
    """A folder with the attacker's files and module, and the file that must never come to be."""

    def __init__(self, folder: Path):
        self.canary, self.folder = folder / "canary", folder / "theirs"
        self.folder.mkdir()
        (self.folder / "evil").mkdir()
        code = f"open({str(self.canary)!r}, 'w')\n"
        (self.folder / "evil" / "__init__.py").write_text(code)

    def set(self, case: dict[str, Any]) -> list[str]:
        """Write the files of a case; its overrides."""
        for name, text in case.get("files", {}).items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._meant(text), encoding="utf-8")
        return [self._meant(line) for line in case.get("run", [])]

    def _meant(self, text: str) -> str:
        text = text.replace("DEEP", "[" * 3000 + "]" * 3000)
        return text.replace("CANARY", str(self.canary)).replace("FOLDER", str(self.folder))

    def assert_untouched(self) -> None:
        assert not self.canary.exists()
        assert not any(name.split(".")[0] == "evil" for name in sys.modules)


def laid(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Trap:
    """A trap whose module can be found: only our refusal stands between it and an import."""
    made = Trap(folder)
    monkeypatch.syspath_prepend(str(made.folder))
    monkeypatch.setenv("HOSTILE_TARGET", "os.system")
    for name in ("LLMEXP_ALLOW", "LLMEXP_ROOT", "LLMEXP_TRUSTED_CODE"):
        monkeypatch.delenv(name, raising=False)
    return made
