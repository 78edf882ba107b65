"""The wheel carries `conf/`, so an installed llmexp has the same groups as a checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.long
def test_an_installed_wheel_composes_every_group_outside_the_checkout(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-build-isolation", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("llmexp-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {n.removeprefix("llmexp/") for n in archive.namelist() if "/conf/" in n}
        archive.extractall(tmp_path / "site")
    there = {str(p.relative_to(ROOT)) for p in (ROOT / "conf").rglob("*.yaml")}
    assert there <= packed

    command = [
        sys.executable,
        "-m",
        "llmexp",
        "run",
        "strategy=qlora",
        "model=mistral7b",
        "dry=true",
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    where = "import llmexp.configure.compose as c; print(c.conf_dir())"
    said = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert Path(said.stdout.strip()) == tmp_path / "site" / "llmexp" / "conf"
