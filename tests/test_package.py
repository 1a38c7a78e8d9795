"""The package as a whole: its layers, its public names, the cost of importing it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import medrobust

ROOT = Path(__file__).parents[1]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--config", "pyproject.toml", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_layers_hold(copied: Path) -> None:
    done = lint(copied)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("lower", "higher"),
    [("smoothing/bounds.py", "medrobust.models"), ("seeds.py", "medrobust.data.task"),
     ("defences/vote.py", "medrobust.pairs.batches"), ("results/rows/certified.py", "medrobust.jobs.certify")],
)  # fmt: skip
def test_a_planted_import_of_a_higher_layer_is_found(copied: Path, lower: str, higher: str) -> None:
    with (copied / "src" / "medrobust" / lower).open("a") as file:
        file.write(f"\nimport {higher}\n")
    done = lint(copied)
    assert done.returncode != 0
    assert f"-> {higher}" in done.stdout


def test_make_check_runs_the_layer_contract() -> None:
    text = (ROOT / "Makefile").read_text()
    (recipe,) = re.findall(r"^check:.*\n((?:\t.*\n)+)", text, flags=re.M)
    assert "lint-imports" in recipe


def test_public_names() -> None:
    names = set(dir(medrobust)) - {"annotations"}
    declared = re.findall(
        r"^    from medrobust\S* import \w+ as (\w+)$", Path(medrobust.__file__).read_text(), flags=re.M
    )
    assert declared
    for name in declared:
        assert name in names
        assert getattr(medrobust, name) is not None
    assert sorted(declared) == sorted(medrobust._MODULES)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = medrobust.nothing


@pytest.mark.parametrize(
    "module", ["medrobust", "medrobust.results", "medrobust.jobs.experiment", "medrobust.smoothing.bounds"]
)
def test_importing_costs_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_file_says_from_future_annotations() -> None:
    sources = [path for path in (ROOT / "src").rglob("*.py") if "from __future__" in path.read_text()]
    assert sources == []
