import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from medrobust.data import Dataset, Task, load_task, open_dataset, shots
from medrobust.data.sources.selection import balanced
from medrobust.errors import BrokenImageError, ConfigError, DataError, TaskError
from medrobust.seeds import stream
from medrobust.types import Preprocess

SMALL = Preprocess(size=8, resize=8)
TASK = Task("toy", "Toy", ("benign", "malignant"), (("B",), ("M",)), ("{}.",), "", "", "", "")
REAL = Path(os.environ.get("MEDROBUST_DATA") or Path(__file__).parents[3] / "shared" / "data")
real_images = pytest.mark.skipif(
    not (REAL / "pneumoniamnist_subset.npz").exists(), reason="no real images: set MEDROBUST_DATA to their folder"
)


def picture(path: Path, value: int = 128) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.new("RGB", (8, 8), (value, value, value)).save(path)
    return path


def value(dataset: Dataset, i: int) -> int:
    """The grey level that picture() was given."""
    return round(dataset.read(i)[0, 0, 0].item() * 255)


@pytest.fixture(autouse=True)
def no_data_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away from the machine's own data, in an empty working directory."""
    monkeypatch.delenv("MEDROBUST_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def archive(path: Path, **changes: np.ndarray | None) -> Path:
    """Eight test images of values 0, 10, .. and alternating labels; train is empty."""
    content: dict[str, np.ndarray | None] = {
        "train_images": np.zeros((0, 8, 8), dtype=np.uint8),
        "train_labels": np.zeros((0, 1), dtype=np.uint8),
        "test_images": np.arange(0, 80, 10, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2),
        "test_labels": np.arange(8, dtype=np.uint8)[:, None] % 2,
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{key: array for key, array in content.items() if array is not None})
    return path


# -- the phantom


def test_phantom_cycles_through_its_classes_and_is_the_same_every_time() -> None:
    dataset = open_dataset("phantom:11", None, preprocess=SMALL, split="val")
    assert dataset.ids == tuple(f"val/{i}" for i in range(11))
    assert dataset.targets == (0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2)
    assert dataset.task == load_task("phantom")
    again = open_dataset("phantom:9", load_task("bloodmnist"), preprocess=SMALL, split="val")
    assert torch.equal(again.images(), dataset.images(range(9)))
    other = open_dataset("phantom:9", None, preprocess=SMALL, split="test")
    assert not torch.equal(other.read(0), dataset.read(0))


@pytest.mark.parametrize(("split", "count"), [("train", 1600), ("val", 200), ("test", 400)])
def test_phantom_counts(split: str, count: int) -> None:
    assert len(open_dataset("phantom", None, preprocess=SMALL, split=split)) == count


def test_a_limited_phantom_draws_the_images_of_the_whole_one() -> None:
    dataset = open_dataset("phantom", None, preprocess=SMALL, limit=10)
    assert dataset.ids == tuple(f"test/{i}" for i in range(10))


@pytest.mark.parametrize(
    "source", ["phantom:", "phantom:0", "phantom:-3", "phantom:x", "phantom:1e3", "phantom:" + "9" * 5000]
)
def test_phantom_refuses_other_counts(source: str) -> None:
    with pytest.raises(DataError, match="expected a whole number"):
        open_dataset(source, None, preprocess=SMALL)


def test_phantom_refuses_other_splits_and_tasks() -> None:
    with pytest.raises(DataError, match="no split 'dev', only train, val, test"):
        open_dataset("phantom", None, preprocess=SMALL, split="dev")
    with pytest.raises(TaskError, match=r"phantom has the classes 'basophil'.* task toy has 'benign'"):
        open_dataset("phantom", TASK, preprocess=SMALL)


# -- .npz


@pytest.mark.parametrize("column", [True, False])
def test_archive_rows_become_ids_labels_and_images(tmp_path: Path, column: bool) -> None:
    labels = np.array([0, 1, 1, 0, 0, 0, 1, 1], dtype=np.int64)
    path = archive(tmp_path / "x.npz", test_labels=labels[:, None] if column else labels)
    dataset = open_dataset(path, TASK, preprocess=SMALL)
    in_turn = [0, 1, 3, 2, 4, 6, 5, 7]
    assert dataset.ids == tuple(f"test/{row}" for row in in_turn)
    assert dataset.targets == tuple(labels[in_turn].tolist())
    assert [value(dataset, i) for i in range(8)] == [10 * row for row in in_turn]
    assert (dataset.source, dataset.split, dataset.skipped) == (str(path), "test", ())


def test_archive_limit_keeps_rows_and_images_together(tmp_path: Path) -> None:
    labels = np.array([0, 0, 0, 0, 0, 1, 0, 1], dtype=np.uint8)
    dataset = open_dataset(archive(tmp_path / "x.npz", test_labels=labels), TASK, preprocess=SMALL, limit=4)
    assert dataset.ids == ("test/0", "test/5", "test/1", "test/7")
    assert dataset.targets == (0, 1, 0, 1)
    assert [value(dataset, i) for i in range(4)] == [0, 50, 10, 70]


def test_archive_in_colour_and_with_a_class_without_image(tmp_path: Path) -> None:
    colour = np.zeros((8, 8, 8, 3), dtype=np.uint8)
    colour[..., 1] = 255
    path = archive(tmp_path / "x.npz", test_images=colour, test_labels=np.zeros(8, dtype=np.uint8))
    dataset = open_dataset(path, TASK, preprocess=SMALL)
    assert dataset.read(0)[:, 0, 0].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"test_images": None}, "has no test_images, only train_images, train_labels, test_labels"),
        ({"test_labels": None}, "has no test_labels, only"),
        ({"test_labels": np.zeros((8, 14), np.uint8)}, "14 columns, so an image has several labels"),
        ({"test_labels": np.zeros((8, 1, 1), np.uint8)}, r"labels is uint8 of shape \(8, 1, 1\)"),
        ({"test_labels": np.zeros(8, np.float32)}, "labels is float32"),
        ({"test_labels": np.array([0, 1, 0, 2, 0, 0, 0, 0])}, r"label 2 in row 3, but task toy .*'benign' \(B\), 'mal"),
        ({"test_labels": np.array([0, 1, 0, 1, -1, 0, 0, 0])}, "label -1 in row 4"),
        ({"test_labels": np.zeros(7, np.uint8)}, "8 images but 7 labels in split test"),
        ({"test_images": np.zeros((8, 8, 8), np.float32)}, "images is float32 of shape"),
        ({"test_images": np.zeros((8, 8, 8, 4), np.uint8)}, r"uint8 of shape \(8, 8, 8, 4\), expected"),
        ({"test_images": np.zeros((8, 64), np.uint8)}, r"uint8 of shape \(8, 64\), expected"),
        ({"test_images": np.zeros((8, 0, 8), np.uint8)}, r"uint8 of shape \(8, 0, 8\), expected"),
        ({"test_images": np.array([{}] * 8, dtype=object)}, "cannot be read as an .npz file: Object arrays"),
    ],
)
def test_a_wrong_archive_gets_one_sentence(
    tmp_path: Path, changes: dict[str, np.ndarray | None], sentence: str
) -> None:
    path = archive(tmp_path / "x.npz", **changes)
    with pytest.raises(DataError, match=sentence) as raised:
        open_dataset(path, TASK, preprocess=SMALL)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_empty_split_names_those_that_have_images(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.npz")
    with pytest.raises(DataError, match=r"split train of .*x\.npz is empty; test has images"):
        open_dataset(path, TASK, preprocess=SMALL, split="train")
    with pytest.raises(DataError, match="has no dev_images and no dev_labels, only train_images"):
        open_dataset(path, TASK, preprocess=SMALL, split="dev")


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    good = archive(tmp_path / "good.npz", test_images=np.random.default_rng(0).integers(0, 256, (8, 32, 32), np.uint8))
    content = good.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0xFF
    for name, damaged in {"cut": content[:-100], "empty": b"", "text": b"hello", "flipped": bytes(flipped)}.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{name}\.npz (is not an .npz file|cannot be read).*fetch it again"):
            open_dataset(path, TASK, preprocess=SMALL)
    with pytest.raises(DataError, match="none.npz does not exist".replace(".", r"\.")):
        open_dataset(tmp_path / "none.npz", TASK, preprocess=SMALL)


def test_a_flipped_bit_anywhere_is_read_or_refused_but_never_a_crash(tmp_path: Path) -> None:
    content = archive(tmp_path / "x.npz").read_bytes()
    refused = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x40
        (tmp_path / "x.npz").write_bytes(bytes(damaged))
        try:
            open_dataset(tmp_path / "x.npz", TASK, preprocess=SMALL)
        except DataError:
            refused += 1
    assert refused > len(content) // 4


@pytest.mark.parametrize("name", ["pneumoniamnist.npz", "pneumoniamnist_224.npz", "PneumoniaMNIST_subset.npz"])
def test_an_archives_name_gives_its_task(tmp_path: Path, name: str) -> None:
    assert open_dataset(archive(tmp_path / name), None, preprocess=SMALL).task == load_task("pneumoniamnist")
    assert open_dataset(tmp_path / name, TASK, preprocess=SMALL).task == TASK


@pytest.mark.parametrize("name", ["scans.npz", "pneumoniamnistique.npz", "my_pneumoniamnist.npz"])
def test_an_archive_of_another_name_needs_a_task(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="pass --task"):
        open_dataset(archive(tmp_path / name), None, preprocess=SMALL)


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("pneumoniamnist", "pneumoniamnist.npz"),
        ("pneumoniamnist", "pneumoniamnist_subset.npz"),
        ("pneumoniamnist_224", "pneumoniamnist_224.npz"),
        ("pneumoniamnist_224", "pneumoniamnist_224_subset.npz"),
        ("pneumoniamnist_28", "pneumoniamnist.npz"),
        ("pneumoniamnist_28", "pneumoniamnist_28_subset.npz"),
        ("pneumoniamnist_64", "pneumoniamnist_64.npz"),
        ("pneumoniamnist_128", "pneumoniamnist_128.npz"),
        ("pneumoniamnist_odd.npz", "pneumoniamnist_odd.npz"),
    ],
)
@pytest.mark.parametrize("place", ["data", "home/.medmnist"])
def test_names_are_looked_for_in_the_data_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, file: str, place: str
) -> None:
    monkeypatch.setenv("MEDROBUST_DATA", str(tmp_path / "data"))
    archive(tmp_path / place / file)
    dataset = open_dataset(source, None, preprocess=SMALL)
    assert len(dataset) == 8
    assert dataset.source == source  # a record must not tell the folders of this machine


def test_ones_own_folder_goes_first_and_a_whole_file_before_a_subset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(n: int) -> dict[str, np.ndarray]:
        return {"test_images": np.zeros((n, 8, 8), np.uint8), "test_labels": np.zeros(n, np.uint8)}

    archive(tmp_path / "home/.medmnist/pneumoniamnist.npz", **count(3))
    monkeypatch.setenv("MEDROBUST_DATA", str(tmp_path / "data"))
    archive(tmp_path / "data/pneumoniamnist_subset.npz", **count(2))
    assert len(open_dataset("pneumoniamnist", None, preprocess=SMALL)) == 2
    archive(tmp_path / "data/pneumoniamnist.npz", **count(1))
    assert len(open_dataset("pneumoniamnist", None, preprocess=SMALL)) == 1


@pytest.mark.parametrize("size", [28, 64, 128, 224])
@pytest.mark.parametrize(
    "flag", ["pneumoniamnist", "bloodmnist", "pathmnist", "octmnist", "organamnist", "tissuemnist"]
)
def test_every_size_of_a_medmnist_set_is_read_with_its_task(tmp_path: Path, flag: str, size: int) -> None:
    pixels = np.full((2, size, size), 51, dtype=np.uint8)
    path = archive(tmp_path / f"{flag}_{size}.npz", test_images=pixels, test_labels=np.array([[0], [1]]))
    dataset = open_dataset(path, None, preprocess=SMALL)
    assert dataset.task == load_task(flag)
    assert (len(dataset), value(dataset, 1)) == (2, 51)


def test_a_size_that_medmnist_does_not_have_is_refused() -> None:
    with pytest.raises(DataError, match="MedMNIST has bloodmnist at 28, 64, 128, 224 pixels, not at 96"):
        open_dataset("bloodmnist_96", None, preprocess=SMALL)


def test_a_name_not_found_tells_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDROBUST_DATA", str(tmp_path / "data"))
    for source in ("bloodmnist_128", "bloodmnist_x.npz"):
        with pytest.raises(DataError, match="was not found, looked for") as raised:
            open_dataset(source, None, preprocess=SMALL)
        assert str(tmp_path / "data" / source) in str(raised.value)
        assert str(tmp_path / "home" / ".medmnist" / source) in str(raised.value)


# -- folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "scans"
    for i, name in enumerate(["M/b.png", "M/a.JPG", "Benign/c.png", "B/10.tif", "B/9.png"]):
        picture(home / name, 10 * i)
    (home / "M" / "notes.txt").write_text("not an image")
    picture(home / "M" / ".hidden.png")
    (home / ".cache").mkdir()
    (home / "README").write_text("hello")
    return home


def test_folder_takes_classes_in_turn_sorted_by_path_and_labelled_by_its_folders(folder: Path) -> None:
    dataset = open_dataset(folder, TASK, preprocess=SMALL)
    assert dataset.ids == ("B/10.tif", "M/a.JPG", "B/9.png", "M/b.png", "Benign/c.png")
    assert dataset.targets == (0, 1, 0, 1, 0)
    assert [value(dataset, i) for i in range(5)] == [30, 10, 40, 0, 20]


def test_folder_with_splits(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 1)):
        for name in ("benign", "malignant"):
            for i in range(count):
                picture(tmp_path / "s" / split / name / f"{i}.png")
    dataset = open_dataset(str(tmp_path / "s"), TASK, preprocess=SMALL)
    assert dataset.ids == ("test/benign/0.png", "test/malignant/0.png")
    assert len(open_dataset(tmp_path / "s", TASK, preprocess=SMALL, split="train")) == 6
    with pytest.raises(DataError, match="no split 'val', only train, test"):
        open_dataset(tmp_path / "s", TASK, preprocess=SMALL, split="val")


def test_folders_and_classes_must_agree_and_both_sides_are_listed(folder: Path) -> None:
    picture(folder / "cyst" / "a.png")
    with pytest.raises(TaskError, match=r"'B', 'Benign', 'M', 'cyst', task toy has 'benign' .*'cyst' is unknown"):
        open_dataset(folder, TASK, preprocess=SMALL)


def test_a_class_without_a_folder_is_an_error(tmp_path: Path) -> None:
    picture(tmp_path / "s" / "benign" / "a.png")
    with pytest.raises(TaskError, match=r"classes 'benign', task toy has .*'malignant' is missing"):
        open_dataset(tmp_path / "s", TASK, preprocess=SMALL)


def test_folders_without_images_are_errors(tmp_path: Path) -> None:
    home = tmp_path / "s"
    home.mkdir()
    with pytest.raises(DataError, match="no sub-folder, expected one for each class: 'benign'"):
        open_dataset(home, TASK, preprocess=SMALL)
    picture(home / "benign" / "a.png")
    picture(home / "malignant" / "images" / "a.png")
    with pytest.raises(DataError, match="malignant has no image directly in it but the folders images"):
        open_dataset(home, TASK, preprocess=SMALL)


# -- manifests

Write = Callable[[str, list[dict[str, object]]], Path]


@pytest.fixture
def manifest(tmp_path: Path) -> Write:
    """Writes rows as .csv or .jsonl, beside the pictures 0.png .. 5.png."""
    for i in range(6):
        picture(tmp_path / "m" / "images" / f"{i}.png", 10 * i)

    def write(kind: str, rows: list[dict[str, object]]) -> Path:
        path = tmp_path / "m" / f"list.{kind}"
        if kind == "csv":
            keys = list(rows[0])
            lines = [",".join(keys), *(",".join(str(row.get(key, "")) for key in keys) for row in rows)]
        else:
            lines = [json.dumps(row) for row in rows]
        path.write_text("\ufeff" + "\n".join(lines) + "\n\n", encoding="utf-8")
        return path

    return write


def row(i: int, label: object, **more: object) -> dict[str, object]:
    return {"path": f"images/{i}.png", "label": label, **more}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_manifest_takes_classes_in_turn_and_filters_by_split(manifest: Write, kind: str) -> None:
    rows = [
        row(4, "M", split="test", id="first"),
        row(1, "benign", split="train", id="first"),
        row(0, 0, split="", id=""),
        row(2, "1", split="test", id="third"),
    ]
    dataset = open_dataset(manifest(kind, rows), TASK, preprocess=SMALL)
    assert dataset.ids == ("images/0.png", "first", "third")
    assert dataset.targets == (0, 1, 1)
    assert [value(dataset, i) for i in range(3)] == [0, 40, 20]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_manifest_without_splits_serves_every_split(manifest: Write, kind: str, tmp_path: Path) -> None:
    rows = [row(0, "B"), {"path": str(picture(tmp_path / "elsewhere.png", 77)), "label": "M"}]
    for split in ("train", "anything"):
        dataset = open_dataset(manifest(kind, rows), TASK, preprocess=SMALL, split=split)
        assert [value(dataset, i) for i in range(2)] == [0, 77]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("rows", "error", "sentence"),
    [
        ([row(0, "B"), row(1, "cyst")], TaskError, "line {1}: task toy has no class 'cyst'; its classes are 'benign'"),
        ([row(0, "B"), row(9, "M")], DataError, r"line {1}: there is no file .*9\.png"),
        ([row(0, "B"), row(1, "")], DataError, "line {1}: no label; every row needs"),
        ([{"path": "", "label": "B"}], DataError, "line {0}: no path; every row needs"),
        ([row(0, "B", id="x"), row(1, "M", id="x")], DataError, "line {1}: the id 'x' stands in line {0} already"),
        ([row(0, "B"), row(0, "M")], DataError, r"line {1}: the id 'images/0\.png' stands in line {0} already"),
        ([row(0, "B"), row(1, "B")], TaskError, "has the classes 'benign', task toy has .*'malignant' is missing"),
        ([row(0, "B", split="train")], DataError, "no row of split 'test', only train"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_line(
    manifest: Write, kind: str, rows: list[dict[str, object]], error: type[Exception], sentence: str
) -> None:
    first = 2 if kind == "csv" else 1
    with pytest.raises(error, match=sentence.format(first, first + 1)):
        open_dataset(manifest(kind, rows), TASK, preprocess=SMALL)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", b"path,class\na.png,B\n", "has no column label, only path, class"),
        ("a.csv", b"", "has no column path and no column label, only none"),
        ("a.csv", b"path,label\n", "no row of split 'test'"),
        ("a.csv", b"path,label\na,b.png,B\n", "line 2: more cells than columns"),
        ("a.csv", b'path,label\n"a.png"x,B\n', "line 2: "),
        ("a.csv", b"path,label\n\xff.png,B\n", "not UTF-8"),
        ("a.jsonl", b"", "no row of split 'test'"),
        ("a.jsonl", b'\n{"path": "a.png", "label"', "line 2: not JSON"),
        ("a.jsonl", b'["a.png", "B"]\n', "line 1: .* is not an object"),
        ("a.jsonl", b'{"path": "a.png", "label": 1.0}\n', "line 1: label is 1.0, expected text"),
        ("a.jsonl", b'{"path": "a.png", "label": true}\n', "line 1: label is True, expected text"),
        ("a.jsonl", b'{"path": "a.png"}\n', "line 1: no label"),
    ],
)
def test_a_malformed_manifest_is_refused(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        open_dataset(tmp_path / name, TASK, preprocess=SMALL)


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        open_dataset(tmp_path / "none.csv", TASK, preprocess=SMALL)


# -- any files


def test_broken_images_stop_before_the_start_or_are_skipped(folder: Path) -> None:
    (folder / "B" / "9.png").write_bytes(b"")
    (folder / "M" / "b.png").write_bytes(b"broken")
    with pytest.raises(BrokenImageError, match=r"9\.png is an empty file .* 1 more of 5 images.*--skip-broken"):
        open_dataset(folder, TASK, preprocess=SMALL)
    dataset = open_dataset(folder, TASK, preprocess=SMALL, skip_broken=True)
    assert dataset.skipped == ("B/9.png", "M/b.png")
    assert dataset.ids == ("B/10.tif", "M/a.JPG", "Benign/c.png")
    assert [value(dataset, i) for i in range(3)] == [30, 10, 20]


def test_only_selected_images_are_checked(folder: Path) -> None:
    (folder / "M" / "b.png").write_bytes(b"broken")
    assert open_dataset(folder, TASK, preprocess=SMALL, limit=2).ids == ("B/10.tif", "M/a.JPG")
    (folder / "B" / "10.tif").write_bytes(b"broken")
    assert open_dataset(folder, TASK, preprocess=SMALL, limit=2, skip_broken=True).ids == ("M/a.JPG",)


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    for name in ("benign", "malignant"):
        picture(tmp_path / "s" / name / "a.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="no image left: all 2 are broken"):
        open_dataset(tmp_path / "s", TASK, preprocess=SMALL, skip_broken=True)


def test_a_file_that_vanishes_later_is_named(folder: Path) -> None:
    dataset = open_dataset(folder, TASK, preprocess=SMALL)
    assert torch.equal(dataset.read(2), dataset.read(2))
    (folder / "B" / "9.png").unlink()
    with pytest.raises(BrokenImageError, match=r"9\.png cannot be decoded: No such file"):
        dataset.read(2)


def test_files_need_a_task(folder: Path, manifest: Write) -> None:
    for source in (folder, manifest("csv", [row(0, "B")])):
        with pytest.raises(DataError, match="pass --task"):
            open_dataset(source, None, preprocess=SMALL)


@pytest.mark.parametrize("source", ["fundusmnist", "nowhere", "scan.dcm", "bloodmnist_big"])
def test_anything_else_is_told_what_there_is(source: str) -> None:
    Path("scan.dcm").write_bytes(b"DICM")
    reason = "a file of another kind" if source == "scan.dcm" else "neither a name nor a path that exists"
    with pytest.raises(DataError, match=f"'{source}' is {reason}; --data takes a folder"):
        open_dataset(source, None, preprocess=SMALL)


# -- selection


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 45))
def test_a_limit_is_balanced_ordered_and_grows(targets: list[int], limit: int) -> None:
    rows = balanced(targets, limit)
    assert len(set(rows)) == len(rows) == min(limit, len(targets))
    assert rows == balanced(targets, limit + 1)[: len(rows)] == balanced(targets, None)[: len(rows)]
    taken, there = Counter(targets[row] for row in rows), Counter(targets)
    for label in there:
        own = [row for row, target in enumerate(targets) if target == label]
        assert [row for row in rows if targets[row] == label] == own[: taken[label]]
        if taken[label] < there[label]:  # a class that could give more is at most one behind any other
            assert taken[label] >= max(taken.values()) - 1


def test_no_limit_takes_all_and_a_limit_below_one_is_refused() -> None:
    assert balanced([1, 0, 1], None) == [1, 0, 2]
    for limit in (0, -1):
        with pytest.raises(ConfigError, match=f"limit is {limit}"):
            balanced([0, 1], limit)


def labelled(targets: list[int]) -> Dataset:
    ids = tuple(map(str, range(len(targets))))
    return Dataset(TASK, ids, tuple(targets), lambda i: torch.full((3, 1, 1), i / 100), "toy", "train")


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 8), st.integers(0, 3))
def test_shots_take_so_many_of_every_class(benign: int, malignant: int, count: int, seed: int) -> None:
    whole = labelled([0] * benign + [1] * malignant)
    part = shots(whole, count, stream(seed, "shots"))
    assert Counter(part.targets) == {0: min(count, benign), 1: min(count, malignant)}
    assert list(part.ids) == sorted(set(part.ids), key=int)
    assert all(part.read(i)[0, 0, 0].item() == pytest.approx(int(name) / 100) for i, name in enumerate(part.ids))
    assert part.ids == shots(whole, count, stream(seed, "shots")).ids


def test_shots_are_random_and_every_image_can_be_one() -> None:
    whole = labelled([0] * 5 + [1] * 5)
    draws = [shots(whole, 1, stream(seed, "shots")).ids for seed in range(100)]
    assert {name for ids in draws for name in ids} == set(whole.ids)


def test_shots_need_an_image_of_every_class() -> None:
    with pytest.raises(DataError, match="split train of toy has no image of class 'malignant'"):
        shots(labelled([0, 0]), 1, stream(0, "shots"))
    with pytest.raises(ConfigError, match="0 shots"):
        shots(labelled([0, 1]), 0, stream(0, "shots"))


# -- real images


@real_images
@pytest.mark.parametrize(
    ("file", "task", "counts"),
    [
        ("pneumoniamnist_subset.npz", None, [174, 330]),
        ("pathmnist_subset.npz", None, [44, 23, 8, 18, 34, 18, 26, 8, 37]),
        ("blood_pbc_28_subset.npz", "bloodmnist", [150] * 8),
        ("crc_tiles_224.npz", "kather", [1, 3, 1, 1, 1, 5, 2, 5, 4]),
        ("vqa_rad_224.npz", "vqarad-organs", [33, 37, 34]),
    ],
)
def test_real_files_hold_what_their_page_says(file: str, task: str | None, counts: list[int]) -> None:
    dataset = open_dataset(REAL / file, task and load_task(task), preprocess=Preprocess(28, 28))
    assert [dataset.targets.count(label) for label in range(len(dataset.task.classes))] == counts
    image = dataset.read(len(dataset) - 1)
    assert image.shape == (3, 28, 28)
    assert image.std() > 0.01
