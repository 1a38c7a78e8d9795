"""Images that a user has in memory: every form gives the pixels that a file of them gives, or one sentence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from stand_ins import Split
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import medrobust as mr
from medrobust.data.image import from_array, open_image
from medrobust.data.task import Dataset, Task
from medrobust.errors import DataError, TaskError
from medrobust.types import Preprocess

CLASSES = ("benign", "malignant")
SMALL = Preprocess(8, 8)
LEVELS = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
GREY = LEVELS[..., 0]
WHOLE = torch.from_numpy(LEVELS.astype(np.float32) / 255).permute(2, 0, 1)

SAME: dict[str, Any] = {
    "Pillow": Pillow.fromarray(LEVELS),
    "uint8 H x W x 3": LEVELS,
    "uint8 3 x H x W": LEVELS.transpose(2, 0, 1),
    "float64 H x W x 3": LEVELS / 255,
    "float32 3 x H x W": (LEVELS / 255).astype(np.float32).transpose(2, 0, 1),
    "tensor uint8 3 x H x W": torch.from_numpy(LEVELS).permute(2, 0, 1),
    "tensor float 3 x H x W": WHOLE,
    "tensor with a gradient": WHOLE.clone().requires_grad_(True),
    "uint16": LEVELS.astype(np.uint16) * 257,
}
SAME_GREY: dict[str, Any] = {
    "Pillow": Pillow.fromarray(GREY),
    "H x W": GREY,
    "H x W x 1": GREY[..., None],
    "1 x H x W": torch.from_numpy(GREY)[None],
    "float H x W": torch.from_numpy(GREY / 255),
}


def one(image: Any, **more: Any) -> Tensor:
    return mr.Dataset.of([(image, 0)], CLASSES, **more).read(0)


@pytest.mark.parametrize("form", SAME)
def test_every_form_of_a_colour_image_has_the_same_pixels(form: str) -> None:
    found = one(SAME[form])
    assert found.dtype == torch.float32
    assert torch.allclose(found, WHOLE, atol=1e-6)
    assert not found.requires_grad


@pytest.mark.parametrize("form", SAME_GREY)
def test_every_form_of_a_grey_image_has_three_equal_channels(form: str) -> None:
    expected = torch.from_numpy(GREY.astype(np.float32) / 255).expand(3, -1, -1)
    assert torch.allclose(one(SAME_GREY[form]), expected, atol=1e-6)


def test_the_rules_are_those_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Pillow.fromarray(LEVELS).save(path)
    expected = open_image(path, SMALL)
    for image in (path, str(path), Pillow.open(path), LEVELS):
        assert torch.equal(one(image, preprocess=SMALL), expected)
    floats = LEVELS.astype(np.float32) / 255
    assert torch.equal(one(floats, preprocess=SMALL), from_array(floats, SMALL))


def test_sixteen_bits_stay_sixteen_bits() -> None:
    deep = np.array([[0, 1], [32768, 65535]], dtype=np.uint16)
    assert torch.allclose(one(deep)[0], torch.tensor([[0, 1 / 65535], [32768 / 65535, 1]]), atol=1e-9)


def test_transparent_pixels_of_pillow_show_white() -> None:
    assert one(Pillow.new("RGBA", (2, 2), (0, 0, 0, 0))).min() == 1


def test_a_split_of_hugging_face_is_read_by_columns() -> None:
    rows = [{"image": Pillow.fromarray(LEVELS), "label": number % 2, "id": f"case {number}"} for number in range(50)]
    split = Split(rows)
    data = mr.Dataset.of(split, CLASSES, preprocess=SMALL, split="train", source="hub")
    assert set(split.decoded) == {0}  # no other image was decoded
    assert (data.targets[:4], data.ids[:2], data.split, data.source) == (
        (0, 1, 0, 1),
        ("case 0", "case 1"),
        "train",
        "hub",
    )
    assert torch.equal(data.read(7), from_array(LEVELS, SMALL))


def test_numbers_go_by_the_names_that_a_data_set_has_for_them(task: Task) -> None:
    rows = [{"image": LEVELS, "label": number} for number in range(3)]
    turned = Split(rows, ["blue paint", "Red_Paint", "green paint"])
    assert mr.Dataset.of(turned, task).targets == (2, 0, 1)
    assert mr.Dataset.of(Split(rows, ["b", "r", "g"]), task).targets == (0, 1, 2)  # the task renames them
    with pytest.raises(DataError, match=r"^the data set calls its classes 'blue paint', 'r', 'g'; task colours has .*"
                                        r"without 'r', 'g'; add aliases"):  # fmt: skip
        mr.Dataset.of(Split(rows, ["blue paint", "r", "g"]), task)


def test_a_folder_of_torchvision_goes_by_name(task: Task) -> None:
    class Folder(list):
        classes = ("green paint", "blue paint", "red paint")

    assert mr.Dataset.of(Folder([(LEVELS, 0), (LEVELS, 1), (LEVELS, 2)]), task).targets == (1, 2, 0)


def test_data_sets_of_torch_and_dictionaries_of_monai() -> None:
    images = torch.rand(4, 3, 8, 8)
    labels = torch.tensor([0, 1, 1, 0])
    data = mr.Dataset.of(TensorDataset(images, labels), CLASSES)
    assert torch.equal(data.images(), images)
    assert torch.equal(data.labels, labels)
    assert data.ids == ("test/0", "test/1", "test/2", "test/3")
    monai = [{"image": image, "label": label[None]} for image, label in zip(images, labels, strict=True)]
    assert torch.equal(mr.Dataset.of(monai, CLASSES).images(), images)


@pytest.mark.parametrize(
    "label", [1, True, np.int64(1), np.uint8(1), np.array([1]), torch.tensor(1), torch.tensor([[1]]), [1], "malignant",
              "Malignant", "1"],
)  # fmt: skip
def test_labels(label: Any) -> None:
    assert mr.Dataset.of([(LEVELS, label)], CLASSES).targets == (1,)


def test_tasks() -> None:
    items = [(LEVELS, 1, 17)]
    assert mr.Dataset.of(items, "pannuke").task == mr.load_task("pannuke")
    found = mr.Dataset.of(items, CLASSES)
    assert (found.task.classes, found.ids, found.source) == (CLASSES, ("17",), "list from Python")
    with pytest.raises(TaskError, match="has 1 class, expected at least two"):
        mr.Dataset.of(items, ("alone",))


def test_findings_are_a_row_of_zeros_and_ones() -> None:
    chest = mr.load_task("chexpert")
    row = torch.zeros(len(chest.classes), dtype=torch.int64)
    row[[0, 2]] = 1
    data = mr.Dataset.of([(LEVELS, row), (LEVELS, 6)], chest)
    assert data.targets == (5, 6)
    assert data.finding(2).targets == (1, 1)
    assert mr.Dataset.of([(LEVELS, row)], chest.finding(1)).targets == (0,)
    with pytest.raises(DataError, match=r"item 0: the label is int64 of shape \(1, 2\), expected 0 or 1 in"):
        mr.Dataset.of([(LEVELS, row[:2])], chest)


def test_images_are_read_when_they_are_asked_for() -> None:
    class Counted:
        def __init__(self) -> None:
            self.reads: list[int] = []

        def __len__(self) -> int:
            return 5

        def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
            self.reads.append(number)
            return LEVELS, 0

    items = Counted()
    data = mr.Dataset.of(items, CLASSES)
    before = len(items.reads)
    data.subset([4, 2]).read(1)
    assert items.reads[before:] == [2]


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        yield LEVELS, 0


class Changing(list):
    """Its first item is what `after` says from the fourth reading on."""

    def __init__(self, after: Any) -> None:
        super().__init__([(LEVELS, 0)])
        self.after, self.reads = after, 0

    def __getitem__(self, number: Any) -> Any:
        self.reads += 1
        return super().__getitem__(number) if self.reads < 3 else self.after


def pair(image: Any) -> list[Any]:
    return [(LEVELS, 0), (image, 1)]


class Broken:
    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> Any:
        raise OSError("gone")


REFUSED: dict[str, tuple[Any, str]] = {
    "a generator": (lambda: (row for row in [(LEVELS, 0)]), r"^a generator cannot be read by number, .* list\(items\)"),
    "a stream": (Stream, r"^a Stream cannot be read by number"),
    "a loader": (lambda: DataLoader([(LEVELS, 0)]), r"^a DataLoader cannot be read by number, .*; pass its \.dataset$"),
    "splits": (lambda: {"train": [], "test": []}, r"^got a mapping with 'train', 'test', expected .* pass one split"),
    "nothing": (list, r"^the list is empty"),
    "arrays": (lambda: (np.zeros((4, 8, 8)), np.zeros(4)), r"^item 0 is float64 of shape \(4, 8, 8\), expected "
               r"\(image, label\), .* pass list\(zip\(images, labels\)\)$"),
    "other keys": (lambda: [{"img": LEVELS, "label": 0}], r"^item 0 has the keys 'img', 'label', expected 'image'"),
    "twice": (lambda: [(LEVELS, 0, "a"), (LEVELS, 1, "b"), (LEVELS, 1, "a")], r"^items 0 and 2 have the id 'a'; every"),
    "a large label": (lambda: [(LEVELS, 2)], r"^item 0 has label 2, but task own-classes has only the labels 0 to 1: "),
    "a negative one": (lambda: [(LEVELS, -1)], r"^item 0 has label -1"),
    "another name": (lambda: [(LEVELS, "unclear")], r"^item 0: task own-classes has no class 'unclear'"),
    "a float": (lambda: [(LEVELS, 1.0)], r"^item 0 has the label a float \(1\.0\), expected one whole number"),
    "one-hot": (lambda: [(LEVELS, np.array([0, 1]))], r"^item 0 has the label int64 of shape \(2,\), expected one"),
    "no label": (lambda: [(LEVELS, None)], r"^item 0 has the label a NoneType"),
    "a broken item": (Broken, r"^item 0 cannot be read \(OSError: gone\)$"),
    "another image": (lambda: Changing((255 - LEVELS, 0)), r"^item 0 is another image each time .* random transforms"),
    "another label": (lambda: Changing((LEVELS, 1)), r"^item 0 \(test/0\) has another label than when it was "),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_data_set_is_refused_with_the_item(case: str) -> None:
    items, sentence = REFUSED[case]
    with pytest.raises(DataError, match=sentence):
        mr.Dataset.of(items(), CLASSES)


HOSTILE: dict[str, tuple[Any, str]] = {
    "NaN": (np.full((12, 10), np.nan), "has pixels that are NaN or infinite"),
    "normalised": (WHOLE * 4 - 2, r"has pixels from -2 to 2, expected 0 to 1; rescale them"),
    "grey levels as floats": (LEVELS.astype(np.float32), r"has pixels from 0 to 255, expected 0 to 1"),
    "int64": (LEVELS.astype(np.int64), r"of int64 is not an image, expected uint8, uint16 or floats in \[0, 1\]"),
    "bool": (GREY > 100, "of bool is not an image"),
    "four axes": (WHOLE[None], r"of shape \(1, 3, 12, 10\) is not an image, expected H x W or H x W x 3"),
    "one axis": (WHOLE.flatten(), r"of shape \(360,\) is not an image"),
    "four channels": (np.zeros((12, 10, 4), np.uint8), r"has shape \(12, 10, 4\), and no axis has 1 or 3 channels"),
    "both ends": (np.zeros((3, 10, 3), np.uint8), r"and its channels may be the first axis or the last; expected"),
    "no pixels": (np.zeros((0, 10), np.uint8), r"of shape \(0, 10\) is not an image"),
    "words": ({"bytes": b""}, r"is a dict \(\{'bytes': b''\}\), expected an image of Pillow, a path, an array or a"),
    "no file": ("nowhere.png", r"\(nowhere\.png\) cannot be decoded: No such file or directory"),
    "another size": (LEVELS[:8], r"^item 1 \(test/1\) has 10 x 8 pixels and item 0 has 10 x 12; pass preprocess="),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_images_are_refused_with_the_item_when_read(case: str) -> None:
    image, sentence = HOSTILE[case]
    data = mr.Dataset.of(pair(image), CLASSES)
    with pytest.raises(DataError, match=sentence) as caught:
        data.read(1)
    assert "item 1 (test/1)" in str(caught.value)


def test_it_is_a_dataset_like_any_other(task: Task, unseen: Dataset) -> None:
    again = mr.Dataset.of([(unseen.read(i), unseen.targets[i], unseen.ids[i]) for i in range(len(unseen))], task)
    assert torch.equal(again.images(), unseen.images())
    assert (again.ids, again.targets, again.split) == (unseen.ids, unseen.targets, "test")
