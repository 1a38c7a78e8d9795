"""Tasks whose classes are findings: their file, their labels in every format, one of them alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrobust.data import Dataset, Task, load_task, open_dataset
from medrobust.data.check.report import CheckReport
from medrobust.data.check.text import check_text
from medrobust.data.sources.ticks import ticked
from medrobust.errors import DataError, TaskError
from medrobust.jobs.check import check_images
from medrobust.jobs.check_settings import CheckSettings
from medrobust.jobs.job import Given
from medrobust.types import Preprocess

SMALL = Preprocess(8, 8)
YAML = """
name: chest
title: Chest
findings:
  - {name: edema, aliases: [oedema]}
  - {name: pleural effusion, absent: clear pleural space}
  - {name: hernia}
templates: ["{}"]
"""


def check(source: str, task: Task | None, *, preprocess: Preprocess, split: str | None = None) -> CheckReport:
    return check_images(CheckSettings(data=source, split=split), given=Given(model=preprocess, data=task))


@pytest.fixture
def chest(tmp_path: Path) -> Task:
    (tmp_path / "chest.yaml").write_text(YAML)
    return load_task(tmp_path / "chest.yaml")


def pictures(folder: Path, *names: str) -> None:
    from PIL import Image

    for number, name in enumerate(names):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / name)


def opened(folder: Path, table: str, task: Task, name: str = "list.csv", **how: Any) -> Dataset:
    (folder / name).write_text(table)
    return open_dataset(folder / name, task, preprocess=SMALL, findings=True, **how)


def test_a_file_names_findings_and_what_their_lack_is_called(chest: Task, tmp_path: Path) -> None:
    assert chest.classes == ("edema", "pleural effusion", "hernia")
    assert chest.absent == ("no edema", "clear pleural space", "no hernia")
    alone = load_task(f"{tmp_path / 'chest.yaml'}#oedema")
    assert (alone.name, alone.classes, alone.absent, alone.of) == ("chest#edema", ("no edema", "edema"), (), chest)
    assert alone.index_of("Oedema") == 1
    assert load_task(f"{tmp_path / 'chest.yaml'}#1").classes == ("clear pleural space", "pleural effusion")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("{name: hernia}", "{name: hernia, absent: Hernia}"), r"calls 'hernia' and its lack alike"),
        (("{name: hernia}", '{name: "hernia, large"}'), r"the finding 'hernia, large' has a comma"),
        (("{name: hernia}", "{name: hernia, absent: 3}"), r"an absent finding is 3, expected text"),
        (("findings:", "classes:"), r"unknown key 'absent'"),
        (("templates", "classes: [a, b]\ntemplates"), r"unknown key 'classes'"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    (tmp_path / "chest.yaml").write_text(YAML.replace(*change))
    with pytest.raises(TaskError, match=message):
        load_task(tmp_path / "chest.yaml")


def test_one_finding_is_enough_and_63_are_too_many() -> None:
    def of(count: int) -> Task:
        names = tuple(f"finding {number}" for number in range(count))
        return Task("t", "t", names, ((),) * count, ("{}",), absent=tuple(f"no {name}" for name in names))

    assert of(1).finding(0).classes == ("no finding 0", "finding 0")
    assert of(62).says((1 << 62) - 1).count(",") == 61
    with pytest.raises(TaskError, match="at most 62"):
        of(63)


def test_findings_of_classes_and_unknown_ones_are_refused() -> None:
    with pytest.raises(TaskError, match="the classes of task bloodmnist exclude each other; leave out #basophil"):
        load_task("bloodmnist#basophil")
    with pytest.raises(TaskError, match="task chexpert has no class 'edma'"):
        load_task("chexpert#edma")


@given(st.integers(0, 7))
def test_a_label_is_the_sum_over_its_findings(label: int) -> None:
    names = ("edema", "mass", "hernia")
    task = Task("t", "t", names, ((),) * 3, ("{}",), absent=("no edema", "no mass", "no hernia"))
    data = Dataset(task, ("a",), (label,), lambda _: None, "s", "test")  # type: ignore[arg-type, return-value]
    there = [data.finding(place).targets[0] for place in range(3)]
    assert sum(bit << place for place, bit in enumerate(there)) == label
    assert task.says(label) == (", ".join(n for n, bit in zip(names, there, strict=True) if bit) or "no finding")


def test_columns_of_one_and_zero(chest: Task, tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    table = "path,Pleural_Effusion,oedema,Hernia,age\na.png,1,0.0,0,3\nb.png,1.0,1,no,4\nc.png,0,false,Yes,5\n"
    data = opened(tmp_path, table, chest)
    assert dict(zip(data.ids, data.targets, strict=True)) == {"a.png": 0b010, "b.png": 0b011, "c.png": 0b100}


def test_names_between_bars(chest: Task, tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    rows = ['{"path": "a.png", "label": "Oedema|Hernia"}', '{"path": "b.png", "label": "No Finding"}']
    rows.append('{"path": "c.png", "label": "no edema | pleural effusion"}')
    data = opened(tmp_path, "\n".join(rows), chest, "list.jsonl")
    assert dict(zip(data.ids, data.targets, strict=True)) == {"a.png": 0b101, "b.png": 0, "c.png": 0b010}


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        (
            "path,edema,hernia\na.png,1,0\n",
            DataError,
            r"line 2: no column 'pleural effusion'; each finding of ta",
        ),
        ("path,edema,hernia,pleural effusion\na.png,1,,0\n", DataError, r"line 2: hernia is '', expected 1 \(there\)"),
        ("path,edema,hernia,pleural effusion\na.png,1,0,-1\n", DataError, r"line 2: pleural effusion is '-1', expect"),
        ("path,label\na.png,edema|fracture\n", TaskError, r"line 2: task chest has no class 'fracture'"),
        ("path,label\na.png,\n", DataError, r"line 2: neither a column for each finding of task chest nor names"),
        ("path,age\na.png,3\n", DataError, r"line 2: neither a column for each finding of task chest nor names"),
        ("label\nedema\n", DataError, r"has no column path, only label"),
    ],
)
def test_labels_that_say_too_little(chest: Task, tmp_path: Path, table: str, error: type, message: str) -> None:
    pictures(tmp_path, "a.png")
    with pytest.raises(error, match=message):
        opened(tmp_path, table, chest)


def test_one_finding_alone_needs_its_own_column_only(chest: Task, tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    table = "path,edema,hernia,pleural effusion\na.png,,1,-1\nb.png,,0,\nc.png,1,1,0\n"
    data = opened(tmp_path, table, chest.finding(2))
    assert dict(zip(data.ids, data.targets, strict=True)) == {"a.png": 1, "b.png": 0, "c.png": 1}
    assert data.task.classes == ("no hernia", "hernia")
    assert opened(tmp_path, table, chest.finding(2), limit=2).targets == (0, 1)  # in turn from both classes
    named = opened(tmp_path, "path,label\na.png,hernia\nb.png,edema\nc.png,no hernia\n", chest.finding(2))
    assert dict(zip(named.ids, named.targets, strict=True)) == {"a.png": 1, "b.png": 0, "c.png": 0}


def archive(path: Path, labels: np.ndarray) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8), dtype=np.uint8)
    np.savez(path, test_images=images, test_labels=labels)
    return path


def test_a_matrix_of_labels(chest: Task, tmp_path: Path) -> None:
    path = archive(tmp_path / "set.npz", np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 1]]))
    data = open_dataset(path, chest, preprocess=SMALL, findings=True)
    assert data.ids == ("test/1", "test/2", "test/0", "test/3")  # in turn from every set of findings
    assert data.targets == (0, 0b010, 0b101, 0b101)
    alone = open_dataset(path, chest.finding(2), preprocess=SMALL)
    assert dict(zip(alone.ids, alone.targets, strict=True)) == {"test/0": 1, "test/1": 0, "test/2": 0, "test/3": 1}
    own = archive(tmp_path / "own.npz", np.array([[1], [0], [1]]))
    assert sorted(open_dataset(own, chest.finding(2), preprocess=SMALL).targets) == [0, 1, 1]


@pytest.mark.parametrize("labels", [np.array([[1, 0], [0, 1]]), np.array([[1, 0, 2]]), np.array([0, 1, 1])])
def test_a_matrix_that_is_not_one_of_these_findings(chest: Task, tmp_path: Path, labels: np.ndarray) -> None:
    path = archive(tmp_path / "set.npz", labels)
    with pytest.raises(DataError, match="expected 0 or 1 in 3 columns, one for each finding of task chest"):
        open_dataset(path, chest, preprocess=SMALL, findings=True)


def test_chestmnist_brings_its_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros((2, 14), dtype=np.int64)
    labels[0, [2, 12]] = 1
    archive(tmp_path / "chestmnist.npz", labels)
    monkeypatch.setenv("MEDROBUST_DATA", str(tmp_path))
    data = open_dataset("chestmnist", None, preprocess=SMALL, findings=True)
    assert sorted(map(data.task.says, data.targets)) == ["no finding", "pleural effusion, pleural thickening"]


def test_where_an_image_has_one_answer_findings_are_refused(chest: Task, tmp_path: Path) -> None:
    path = archive(tmp_path / "chestmnist_8.npz", np.eye(14, dtype=np.int64))
    for task, name in ((chest, "edema"), (None, "atelectasis")):
        with pytest.raises(TaskError, match=f"ask for one of them by '#{name}' behind the task's name or file"):
            open_dataset(path, task, preprocess=SMALL)
    (tmp_path / "folder" / "edema").mkdir(parents=True)
    with pytest.raises(TaskError, match="has one class an image, and several findings of task chest may be in one"):
        open_dataset(tmp_path / "folder", chest, preprocess=SMALL, findings=True)


def test_a_matrix_without_a_task_of_findings_says_what_is_needed(task: Task, tmp_path: Path) -> None:
    path = archive(tmp_path / "set.npz", np.array([[1, 0, 1]]))
    with pytest.raises(DataError, match="expected one column, or a task with `findings`"):
        open_dataset(path, task, preprocess=SMALL)


def test_a_check_counts_each_finding(chest: Task, tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    table = "path,edema,hernia,pleural effusion\na.png,1,0,1\nb.png,1,0,0\nc.png,0,0,0\n"
    (tmp_path / "list.csv").write_text(table)
    found = check(str(tmp_path / "list.csv"), chest, preprocess=SMALL)
    (part,) = found.splits.values()
    assert part.classes == {"edema": 2, "pleural effusion": 1, "hernia": 0, "no finding": 1}
    assert found.usable
    assert "hernia" in check_text(found)
    (tmp_path / "list.csv").write_text(table.replace("b.png,1", "b.png,?"))
    worse = check(str(tmp_path / "list.csv"), chest, preprocess=SMALL)
    assert worse.problems == (
        "line 3: edema is '?', expected 1 (there) or 0 (absent); decide first what uncertain and empty ones are",
    )
    whole = archive(tmp_path / "set.npz", np.array([[1, 0, 1], [0, 0, 0]]))
    (part,) = check(str(whole), chest, preprocess=SMALL).splits.values()
    assert part.classes == {"edema": 1, "pleural effusion": 0, "hernia": 1, "no finding": 1}


@given(st.dictionaries(st.sampled_from(["edema", "mass"]), st.sampled_from(["1", 0, "yes", "False", 1.0]), min_size=2))
def test_ticks_in_any_spelling(cells: dict[str, Any]) -> None:
    task = Task("t", "t", ("edema", "mass"), ((), ()), ("{}",), absent=("no edema", "no mass"))
    wanted = sum((cells[name] in ("1", "yes", 1.0)) << place for place, name in enumerate(task.classes))
    assert ticked(cells, "", task) == wanted
    assert ticked(cells, "ignored", task.finding(1)) == wanted >> 1
