from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from medrobust.data.task import Dataset, Task
from medrobust.data.taskfile import load_task, task_names
from medrobust.errors import TaskError

GOOD: dict[str, Any] = {
    "name": "toy",
    "title": "A toy",
    "classes": [{"name": "benign", "aliases": ["B-0", "ben ign"]}, {"name": "malignant tumour", "aliases": ["M"]}],
    "templates": ["a photo of {}."],
    "modality": "none",
    "source": "here",
    "licence": "CC0 1.0",
    "citation": "nobody",
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "toy.yaml"
    content = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return path


@pytest.fixture
def toy(tmp_path: Path) -> Task:
    return load_task(write(tmp_path))


@pytest.mark.parametrize("name", task_names())
def test_built_in_tasks_are_complete(name: str) -> None:
    task = load_task(name)
    assert task.name == name
    assert hash(task) == hash(load_task(name))
    assert len(task.templates) >= (1 if task.absent else 4)  # findings: "X" and "no X" alone, as CheXzero
    assert [task.index_of(text) for text in task.classes] == list(range(len(task.classes)))
    assert all(task.index_of(alias) == label for label, aliases in enumerate(task.aliases) for alias in aliases)
    assert task.medmnist in (None, name)


def test_the_papers_tasks_have_its_classes_and_first_templates() -> None:
    firsts = {name: load_task(name).templates[0] for name in ("kather", "pannuke", "sicapv2", "skincancer")}
    assert firsts == {
        "kather": "An H&E image patch of {}.",
        "pannuke": "An H&E image of {} tissue.",
        "sicapv2": "a histopathology slide showing {}",
        "skincancer": "a histopathology slide showing {}",
    }
    counts = {"kather": 9, "pannuke": 2, "sicapv2": 4, "skincancer": 16, "covid19": 2, "rsna18": 3}
    assert {name: len(load_task(name).classes) for name in counts} == counts
    codes = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
    assert [load_task("kather").index_of(code) for code in codes] == list(range(9))
    assert load_task("rsna18").classes == ("Lung Opacity", "No Lung Opacity Not Normal", "Normal")


def test_phantom_has_the_classes_of_bloodmnist_in_its_order() -> None:
    cells = "basophil,eosinophil,erythroblast,immature granulocytes,lymphocyte,monocyte,neutrophil,platelet"
    assert ",".join(load_task("bloodmnist").classes) == cells
    assert load_task("phantom").classes == load_task("bloodmnist").classes


def test_a_users_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, medmnist="toymnist")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    task = load_task(str(path))
    assert task.classes == ("benign", "malignant tumour")
    assert task.aliases == (("B-0", "ben ign"), ("M",))
    assert task.medmnist == "toymnist"


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("benign", 0),
        ("BENIGN", 0),
        ("b_0", 0),
        ("Ben_Ign", 0),
        ("Malignant-Tumour", 1),
        (" m ", 1),
        ("1", 1),
        ("00", 0),
    ],
)
def test_index_of_takes_names_aliases_and_numbers(toy: Task, text: str, label: int) -> None:
    assert toy.index_of(text) == label


@pytest.mark.parametrize("text", ["", "2", "-1", "1.0", "²", "9" * 5000, "benigner", "malignanttumour"])
def test_index_of_refuses_others_and_lists_both_sides(toy: Task, text: str) -> None:
    with pytest.raises(TaskError, match=r"no class .*'benign' \(B-0, ben ign\), 'malignant tumour' \(M\)"):
        toy.index_of(text)


@given(st.sampled_from(["malignant tumour", "M", "B-0"]), st.data())
def test_index_of_ignores_case_and_separators(name: str, data: st.DataObject) -> None:
    task = Task("t", "t", ("benign", "malignant tumour"), (("B-0",), ("M",)), ("{}",), "", "", "", "")
    letters = [
        data.draw(st.sampled_from([" ", "_", "-", "__", " - "] if letter in " -" else [letter.upper(), letter.lower()]))
        for letter in name
    ]
    assert task.index_of("".join(letters)) == task.index_of(name)


def test_a_name_goes_before_a_number() -> None:
    task = Task("digits", "t", ("1", "0"), ((), ()), ("{}",), "", "", "", "")
    assert (task.index_of("1"), task.index_of("0")) == (0, 1)


def test_match_lists_both_sides(toy: Task) -> None:
    assert toy.match(["M", "benign", "ben-ign"], "here") == {"M": 1, "benign": 0, "ben-ign": 0}
    with pytest.raises(TaskError, match=r"here has the classes 'M', task toy has .*'benign' is missing"):
        toy.match(["M"], "here")
    with pytest.raises(TaskError, match="'cyst' is unknown to the task and 'malignant tumour' is missing"):
        toy.match(["benign", "cyst"], "here")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"templtes": ["{}"]}, "unknown key 'templtes' \\(did you mean 'templates'\\?\\)"),
    ({"aliases": []}, "unknown key 'aliases'"),
    ({"templates": None}, "'templates' is missing"),
    ({"title": 3}, "title is 3, expected text"),
    ({"title": " "}, "title is ' ', expected text"),
    ({"classes": "benign"}, "classes is 'benign', expected a list"),
    ({"classes": [{"name": "benign"}]}, "has 1 class, expected at least two"),
    ({"classes": []}, "has 0 class"),
    ({"classes": ["benign", "malignant"]}, "found 'benign', expected the keys name, aliases"),
    ({"classes": [{"name": "a"}, {"nam": "b"}]}, "unknown key 'nam' \\(did you mean 'name'\\?\\)"),
    ({"classes": [{"name": "a"}, {"aliases": ["b"]}]}, "'name' is missing"),
    ({"classes": [{"name": "a"}, {"name": False}]}, "the name of a class is False, expected text; put it in quotes"),
    ({"classes": [{"name": "a"}, {"name": "b", "aliases": "c"}]}, "aliases of 'b' is 'c', expected a list"),
    ({"classes": [{"name": "a b"}, {"name": "A_b"}]}, "names the class 'A_b' twice"),
    ({"classes": [{"name": "a", "aliases": ["x"]}, {"name": "b", "aliases": ["X"]}]}, "'X' belongs to two classes"),
    ({"classes": [{"name": "a"}, {"name": "b", "aliases": ["A"]}]}, "'A' belongs to two classes"),
    ({"templates": []}, "has no template"),
    ({"templates": ["a photo"]}, "'a photo' must have exactly one {}"),
    ({"templates": ["{} and {}"]}, "must have exactly one {}"),
    ({"templates": ["{} and {name}"]}, "must have exactly one {}"),
    ({"templates": "{}"}, "templates is '{}', expected a list"),
]


@pytest.mark.parametrize(("changes", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
def test_a_wrong_file_gets_one_sentence_with_its_name(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(TaskError, match=sentence) as raised:
        load_task(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "found None, expected the keys"),
        (b"- a\n- b\n", "expected the keys"),
        (b"name: [", "is not YAML"),
        (b"name: 2024-99-99", "is not YAML"),
        (b"name: !!python/object/apply:os.getcwd []", "is not YAML"),
        (b"name: \xff", "is not UTF-8"),
    ],
)
def test_what_is_no_task_file_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(TaskError, match=sentence):
        load_task(path)


def test_a_missing_task_is_told_with_the_nearest_and_all_names(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"no task 'Katther' \(did you mean 'kather'\?\).* pannuke, "):
        load_task("Katther")
    with pytest.raises(TaskError, match="cannot be read: No such file"):
        load_task(tmp_path / "none.yaml")


def test_classes_and_aliases_must_be_as_many() -> None:
    with pytest.raises(TaskError, match="2 classes but aliases for 1"):
        Task("t", "t", ("a", "b"), ((),), ("{}",), "", "", "", "")


def test_a_subset_reads_the_rows_it_was_given(toy: Task) -> None:
    pixels = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 2, 2) / 4
    whole = Dataset(toy, ("a", "b", "c", "d"), (0, 1, 0, 1), lambda i: pixels[i], "toy", "test", skipped=("e",))
    part = whole.subset([3, 0, 2]).subset([2, 0])
    assert (part.ids, part.targets, part.skipped, len(part)) == (("c", "d"), (0, 1), ("e",), 2)
    assert torch.equal(part.images(), pixels[[2, 3]])
    assert torch.equal(part.images([1]), pixels[[3]])
    assert torch.equal(part.labels, torch.tensor([0, 1]))
