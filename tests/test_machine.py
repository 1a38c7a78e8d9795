"""Threads: set by the command line alone, never by a library call."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import medrobust
from medrobust import machine
from medrobust.cli import app
from medrobust.jobs.experiment import Choice
from medrobust.jobs.predict import answer_images

SOURCE = Path(medrobust.__file__).parent


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def calling(name: str) -> set[str]:
    paths = {path.relative_to(SOURCE).as_posix(): path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    return {path for path, text in paths.items() if re.search(rf"(?<!def )\b{name}\(", text)}


def test_torch_is_told_in_one_place_and_by_the_command_line_alone() -> None:
    assert calling("set_num_threads") == {"machine.py"}
    drivers = calling("use_threads")
    assert {"cli/app.py", "cli/ask.py", "cli/learn.py", "cli/poison.py", "cli/predict.py"} <= drivers
    assert [path for path in drivers if not path.startswith("cli/")] == []


def test_threads_as_asked_or_all_that_are_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_threads", lambda: 3)
    machine.use_threads(2)
    assert torch.get_num_threads() == 2
    machine.use_threads()
    assert torch.get_num_threads() == 3


def test_a_library_call_leaves_threads_as_they_are_and_its_command_sets_them(
    checkpoint: Path, task_file: Path, picture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_threads", lambda: 2)
    image = next(picture_folder.rglob("*.png"))
    answer_images(
        [image], model=str(checkpoint), task=str(task_file), choice=Choice(defence="zero-shot"), sigma=None, n=100,
        alpha=0.001, seed=0, device="cpu",
    )  # fmt: skip
    assert torch.get_num_threads() == 1
    done = CliRunner().invoke(app, ["predict", str(image), "--model", str(checkpoint), "--task", str(task_file)])
    assert done.exit_code == 0, done.output
    assert torch.get_num_threads() == 2
