"""States on disk: what is read is what was written; another model's or task's is refused by name."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from medrobust.data.task import Task
from medrobust.defences.coop import Coop
from medrobust.defences.state import Header, check_header, header_of, load_state, save_state, state_settings
from medrobust.errors import RunError, StateError
from medrobust.models.clip import Clip

STATE = {"context": torch.randn(3, 4), "weight.a": torch.arange(6).view(2, 3).T}


@pytest.fixture
def header(tiny: Clip, task: Task) -> Header:
    return header_of(tiny, task, "coop", Coop(shots=3), data="colours (train)", base="b0", seed=7)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "state.safetensors"


def test_the_header_says_whose_state_it_is(header: Header, tiny: Clip, task: Task) -> None:
    assert (header.model, header.model_sha256) == (tiny.name, tiny.sha256)
    assert (header.task, header.classes) == (task.name, task.classes)
    assert (header.defence, header.settings["shots"]) == ("coop", 3)
    assert (header.data, header.base, header.seed, header.schema_version) == ("colours (train)", "b0", 7, 1)


def test_what_is_read_is_what_was_written(path: Path, header: Header) -> None:
    save_state(path, STATE, header)
    state, found = load_state(path)
    assert found == header
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[key], value) for key, value in STATE.items())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_nothing_learned_is_a_state_too(path: Path, header: Header) -> None:
    save_state(path, {}, header)
    assert load_state(path) == ({}, header)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(names=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=2, max_size=4), seed=st.integers())
def test_headers_of_any_text_come_back(path: Path, header: Header, names: list[str], seed: int) -> None:
    odd = header.model_copy(update={"classes": tuple(names), "task": names[0], "seed": seed})
    save_state(path, {}, odd)
    assert load_state(path)[1] == odd


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(
    path: Path, header: Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(path, STATE, header)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*state.safetensors: Input/output error"):
        save_state(path, {}, header)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path, header: Header) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(RunError, match=r"cannot write"):
        save_state(tmp_path / "file" / "state.safetensors", STATE, header)


def test_no_file_is_said(path: Path) -> None:
    with pytest.raises(StateError, match=r"^no state file .*state.safetensors$"):
        load_state(path)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(path: Path, header: Header, keep: int) -> None:
    save_state(path, STATE, header)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StateError, match=r"is not a complete safetensors file"):
        load_state(path)


def test_tensors_of_somebody_else_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(StateError, match=r"holds tensors, but no state of a medrobust defence"):
        load_state(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": None}, r"has a damaged header"),
        ({"classes": "["}, r"has a damaged header"),
        ({"seed": '"many"'}, r"has a damaged header"),
        ({"schema_version": "2"}, r"has schema version 2, this version of medrobust reads 1"),
    ],
)
def test_a_damaged_header_of_version_0_1_is_refused(
    path: Path, header: Header, change: dict[str, Any], sentence: str
) -> None:
    save_state(path, STATE, header)
    said = {key: value for key, value in (_fields(header) | change).items() if value is not None}
    save_file(load_file(path), path, said)
    with pytest.raises(StateError, match=sentence):
        load_state(path)


def test_a_file_of_version_0_1_with_one_key_a_field_is_read(path: Path, header: Header) -> None:
    path.parent.mkdir()
    save_file({key: value.contiguous() for key, value in STATE.items()}, path, _fields(header))
    state, found = load_state(path)
    assert found == header
    assert all(torch.equal(state[key], value) for key, value in STATE.items())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": None}, r"has a damaged header"),
        ({"classes": "red"}, r"has a damaged header"),
        ({"schema_version": 2}, r"has schema version 2, this version of medrobust reads 1"),
        ({"format": "another"}, r"holds tensors, but no state of a medrobust defence"),
        ("{", r"has a damaged header"),
        ("[]", r"has a damaged header: an object was expected, got '\[\]'$"),
    ],
)
def test_a_damaged_header_is_refused(path: Path, header: Header, change: dict[str, Any] | str, sentence: str) -> None:
    values = {"format": "medrobust-state"} | header.model_dump(mode="json")
    path.parent.mkdir()
    save_file({}, path, {"header": change if isinstance(change, str) else json.dumps(values | change)})
    with pytest.raises(StateError, match=sentence):
        load_state(path)


SAVE = """
import sys
from pathlib import Path
import torch
from medrobust.defences.state import Header, save_state
header = Header(
    model="m", model_sha256="0", task="t", classes=("a", "b"), defence="coop", settings={"words": 4}, data="d", seed=1
)
for number in range(5):
    state = {"b": torch.arange(3.0), "a": torch.ones(2, 2), "c": torch.zeros(1)}
    save_state(Path(sys.argv[1]) / f"{number}.safetensors", state, header)
"""


def test_the_same_state_has_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", SAVE, str(tmp_path / seed)], env={**os.environ, "PYTHONHASHSEED": seed})
        for seed in ("0", "1", "2")
    ]
    assert [process.wait() for process in running] == [0, 0, 0]
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 15
    assert len({file.read_bytes() for file in files}) == 1


def _fields(header: Header) -> dict[str, Any]:
    """The metadata as version 0.1 wrote it."""
    values = header.model_dump().items()
    said = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values}
    return said | {"format": "medrobust-state"}


def test_the_model_and_task_it_was_learned_for_are_accepted(header: Header, tiny: Clip, task: Task) -> None:
    check_header(header, tiny, task, path=Path("state.safetensors"))
    check_header(header, replace(tiny, name="another name"), task, path=Path("state.safetensors"))


def test_a_state_of_another_model_is_refused_by_name(header: Header, tiny: Clip, taught: Clip, task: Task) -> None:
    with pytest.raises(StateError) as caught:
        check_header(header, taught, task, path=Path("s"))
    assert str(caught.value) == (
        f"s was learned for model {tiny.name} ({tiny.sha256[:12]}), asked for {taught.name} ({taught.sha256[:12]}); "
        f"pass --model {tiny.name}"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"name": "tints"},
        {"classes": ("red paint", "blue paint", "green paint")},
        {"classes": ("red paint", "green paint"), "aliases": ((), ())},
    ],
)
def test_a_state_of_another_task_is_refused_by_name(header: Header, tiny: Clip, task: Task, change: dict) -> None:
    other = replace(task, **change)
    with pytest.raises(StateError) as caught:
        check_header(header, tiny, other, path=Path("s"))
    assert str(caught.value) == (
        f"s was learned for task colours with classes red paint, green paint, blue paint, asked for {other.name} with "
        f"classes {', '.join(other.classes)}; pass --task colours, or --transfer to use it across tasks"
    )
    check_header(header, tiny, other, path=Path("s"), transfer=True)


def test_settings_are_those_learned_with_under_those_asked_for(header: Header) -> None:
    found = state_settings(header, "coop", {"words": 9}, path=Path("s"))
    assert found == header.settings | {"words": 9}
    assert found["shots"] == 3
    with pytest.raises(StateError, match=r"^s was learned by coop, asked for pool$"):
        state_settings(header, "pool", {}, path=Path("s"))
