"""Images with captions: every form that a user may have, and one sentence for each that does not fit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from captioned import CAPTIONS, draw, write_rows

from medrobust.data import open_image
from medrobust.data.task import Dataset
from medrobust.errors import BrokenImageError, DataError
from medrobust.pairs.batches import captions_of
from medrobust.pairs.captioned import CaptionedImages, CaptionSource, captioned_by_class, open_captioned
from medrobust.pairs.recipe import caption_book
from medrobust.types import Preprocess

SIDE = 16
SMALL = Preprocess(SIDE, SIDE)


@pytest.fixture
def roco(tmp_path: Path) -> Path:
    """As ROCOv2 exports it: a folder of images, a table with ID and Caption beside it."""
    for number in range(4):
        draw(tmp_path / "train" / f"ROCO_{number}{'.jpg' if number % 2 else '.png'}", number)
    rows = [{"ID": f"ROCO_{n}", "Caption": CAPTIONS[n]} for n in (2, 0, 3, 1)]
    write_rows(tmp_path / "train_captions.csv", rows)
    return tmp_path


def opened(data: Path, captions: Path | None = None, **given: object) -> CaptionedImages:
    source = CaptionSource(data=str(data), captions=str(captions) if captions else None, **given)  # type: ignore[arg-type]
    return open_captioned(source, SMALL)


def test_a_table_with_ids_beside_a_folder(roco: Path) -> None:
    pairs = opened(roco / "train", roco / "train_captions.csv")
    assert pairs.ids == ("ROCO_2", "ROCO_0", "ROCO_3", "ROCO_1")
    assert pairs.captions == tuple(CAPTIONS[n] for n in (2, 0, 3, 1))
    assert torch.equal(pairs.read(2), open_image(roco / "train" / "ROCO_3.jpg", SMALL))


def test_ids_with_extensions_and_columns_by_name(roco: Path) -> None:
    rows = [{"ID": "x", "key": f"ROCO_{n}{'.jpg' if n % 2 else '.png'}", "says": CAPTIONS[n]} for n in range(4)]
    path = write_rows(roco / "own.jsonl", rows)
    pairs = opened(roco / "train", path, id_column="key", caption_column="says")
    assert pairs.ids == ("ROCO_0", "ROCO_1", "ROCO_2", "ROCO_3")
    with pytest.raises(DataError, match=r"no column 'sayz' \(did you mean 'says'\?\); its columns are ID, key, says"):
        opened(roco / "train", path, id_column="key", caption_column="sayz")


def test_medicat_rows_are_called_by_paper_and_figure(tmp_path: Path) -> None:
    draw(tmp_path / "figures" / "ab12_2-Figure1-1.png", 0)
    draw(tmp_path / "figures" / "cd34_3-Figure2-1.png", 1)
    rows = [
        {"pdf_hash": "ab12", "fig_uri": "2-Figure1-1.png", "s2_caption": "short", "s2orc_caption": "Left lung."},
        {"pdf_hash": "cd34", "fig_uri": "3-Figure2-1.png", "s2_caption": "Liver.", "s2orc_caption": None},
    ]
    pairs = opened(tmp_path / "figures", write_rows(tmp_path / "release.jsonl", rows))
    assert dict(zip(pairs.ids, pairs.captions, strict=True)) == {
        "ab12_2-Figure1-1": "Left lung.", "cd34_3-Figure2-1": "Liver."
    }  # fmt: skip


def test_captions_in_the_folder_need_not_be_named(tmp_path: Path) -> None:
    for number, name in enumerate(("a/1.png", "b/1.png", "b/1.jpg")):
        draw(tmp_path / "images" / name, number)
    rows = [
        {"id": "one.png", "image": "images/b/1.png", "caption": "B"},
        {"id": "one.jpg", "image": "images/b/1.jpg", "caption": "C"},
        {"id": "a/1", "image": "images/a/1", "caption": "A"},
    ]
    write_rows(tmp_path / "captions.jsonl", rows)
    pairs = opened(tmp_path)
    assert (pairs.ids, pairs.captions) == (("one.png", "one.jpg", "a/1"), ("B", "C", "A"))
    for place, name in enumerate(("b/1.png", "b/1.jpg", "a/1.png")):
        assert torch.equal(pairs.read(place), open_image(tmp_path / "images" / name, SMALL))


def test_a_name_that_two_images_have(tmp_path: Path) -> None:
    draw(tmp_path / "a" / "1.png", 0)
    draw(tmp_path / "b" / "1.png", 1)
    path = write_rows(tmp_path / "captions.csv", [{"id": "1", "caption": "A"}])
    with pytest.raises(DataError, match=r"'1' may mean a/1.png and b/1.png; write the path as id"):
        opened(tmp_path, path)


def test_a_blank_caption_leaves_its_image_out_and_is_counted(roco: Path) -> None:
    rows = [{"ID": f"ROCO_{n}", "Caption": ["  ", CAPTIONS[1], "", CAPTIONS[3]][n]} for n in range(4)]
    pairs = opened(roco / "train", write_rows(roco / "blank.csv", rows))
    assert (pairs.ids, pairs.uncaptioned, pairs.skipped) == (("ROCO_1", "ROCO_3"), ("ROCO_0", "ROCO_2"), ())


def test_both_sides_that_have_no_partner_are_listed(roco: Path) -> None:
    rows = [{"ID": name, "Caption": "lung"} for name in ("ROCO_0", "ROCO_1", "x1", "x2", "x3", "x4", "x5", "x6")]
    path = write_rows(roco / "odd.csv", rows)
    told = (
        r"do not go together: ROCO_2.png, ROCO_3.jpg \(2\) without a caption and x1, x2, x3, x4, x5 and 1 more \(6\) "
        r"without an image; mend this, or leave them out with --skip-broken"
    )
    with pytest.raises(DataError, match=told):
        opened(roco / "train", path)
    pairs = opened(roco / "train", path, skip_broken=True)
    assert pairs.ids == ("ROCO_0", "ROCO_1")
    assert set(pairs.skipped) == {"ROCO_2.png", "ROCO_3.jpg", *(f"x{n}" for n in range(1, 7))}


def test_a_broken_image(roco: Path) -> None:
    (roco / "train" / "ROCO_2.png").write_bytes(b"\x89PNG nothing more")
    with pytest.raises(BrokenImageError, match=r"ROCO_2.png .*; mend or remove it, or pass --skip-broken"):
        opened(roco / "train", roco / "train_captions.csv")
    pairs = opened(roco / "train", roco / "train_captions.csv", skip_broken=True)
    assert (pairs.ids, pairs.skipped) == (("ROCO_0", "ROCO_3", "ROCO_1"), ("ROCO_2",))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ID,Caption\na,x\nb,y\na,z\n", r"line 4: the id 'a' stands in line 2 already; keep one"),
        ("ID,Caption\n,x\n", r"line 2: no ID; every row must say its image"),
        ("ID,Caption\na,x,y\n", r"line 2: more cells than columns; quote the commas"),
        ("ID,Legend\na,x\n", r"no column that is known to hold the caption, only ID, Legend; pass --caption-column"),
        ("Number,Caption\na,x\n", r"no column that is known to hold the id, only Number, Caption; pass --id-column"),
        ("ID,Caption\n", r"has no row, expected one caption a row"),
        ('ID,Caption\na,"x\n', r"line 2: unexpected end of data; save it as CSV again"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, text: str, sentence: str) -> None:
    draw(tmp_path / "images" / "a.png", 0)
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(DataError, match=rf"c.csv.*{sentence}"):
        opened(tmp_path / "images", tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b'{"id": "a", "caption": 3.5}\n', r"line 1: caption is 3.5, expected text"),
        (b'{"id": "a"\n', r"line 1: not JSON"),
        (b"[1]\n", r"line 1: '\[1\]' is not an object with an id and a caption"),
        (b'{"id": "\xff"}\n', r"are not UTF-8 text \(byte 8\); save them as UTF-8"),
    ],
)
def test_what_is_wrong_with_json_lines_is_said(tmp_path: Path, text: bytes, sentence: str) -> None:
    draw(tmp_path / "images" / "a.png", 0)
    (tmp_path / "c.jsonl").write_bytes(text)
    with pytest.raises(DataError, match=rf"c.jsonl,? ?{sentence}"):
        opened(tmp_path / "images", tmp_path / "c.jsonl")


def test_a_file_or_a_folder_that_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    path = write_rows(tmp_path / "c.csv", [{"id": "a", "caption": "lung"}])
    with pytest.raises(DataError, match=r"there is no image file in .*empty or below, expected"):
        opened(tmp_path / "empty", path)
    with pytest.raises(DataError, match=r"captions .*gone.csv cannot be read: No such file"):
        opened(tmp_path / "empty", tmp_path / "gone.csv")
    with pytest.raises(DataError, match=r"read from a .csv or .jsonl file, got .*c.txt"):
        opened(tmp_path / "empty", tmp_path / "c.txt")


def test_pairs_that_do_not_fit_together(dataset: Dataset) -> None:
    with pytest.raises(DataError, match="colours has 2 images and 1 captions; give each image one"):
        CaptionedImages(("a", "b"), ("x",), dataset.read, "colours", "train")
    with pytest.raises(DataError, match="colours has the id 'a' twice; ids must differ"):
        CaptionedImages(("a", "a"), ("x", "y"), dataset.read, "colours", "train")
    with pytest.raises(DataError, match="colours has no image with a caption, so there is no pair"):
        CaptionedImages((), (), dataset.read, "colours", "train")


def test_labelled_images_have_one_caption_of_their_class_fixed_by_seed_and_id(dataset: Dataset) -> None:
    pairs = captioned_by_class(dataset, 0)
    options = captions_of(dataset.task, caption_book())
    assert all(text in options[label] for text, label in zip(pairs.captions, dataset.targets, strict=True))
    backwards = captioned_by_class(dataset.subset(list(range(len(dataset)))[::-1]), 0)
    assert backwards.captions == pairs.captions[::-1]
    assert captioned_by_class(dataset, 1).captions != pairs.captions
    assert len(set(pairs.captions)) == 6
    assert pairs.labels == dataset.targets


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """An .npz file of three images, and questions on them as in VQA-RAD."""
    images = np.zeros((3, SIDE, SIDE), np.uint8)
    np.savez(tmp_path / "scans.npz", train_images=images, train_labels=np.array([1, 0, 2]))
    rows = [
        (0, "chest", "ORGAN", "Chest"), (0, "chest", "POS", "retrocardiac."), (0, "chest", "PRES", "a mass"),
        (0, "chest", "PLANE", "Yes"), (1, "head", "MODALITY, POS", "FLAIR \t MRI"), (2, "", "SIZE", "large"),
    ]  # fmt: skip
    keys = ("row", "organ", "question_type", "answer")
    lines = [dict(zip(keys, row, strict=True)) | {"split": "train", "question": "?"} for row in rows]
    lines.append(lines[0] | {"split": "test", "row": 7, "answer": "PA"})
    write_rows(tmp_path / "qa.jsonl", lines)
    return tmp_path


def test_answers_that_tell_by_themselves_become_statements(questions: Path) -> None:
    pairs = opened(questions / "scans.npz", questions / "qa.jsonl", task="vqarad-organs")
    assert dict(zip(pairs.ids, pairs.captions, strict=True)) == {
        "train/0": "chest. retrocardiac.", "train/1": "head. FLAIR MRI."
    }  # fmt: skip
    assert pairs.uncaptioned == ("train/2",)
    with pytest.raises(DataError, match="has no question on an image of split 'val'; pass another --split"):
        opened(questions / "scans.npz", questions / "qa.jsonl", task="vqarad-organs", split="val")


def test_questions_that_name_no_image(questions: Path) -> None:
    path = write_rows(questions / "bad.jsonl", [{"question": "?", "answer": "CT"}])
    with pytest.raises(DataError, match=r"bad.jsonl, line 1: neither row nor image_name; every question must say"):
        opened(questions / "scans.npz", path, task="vqarad-organs")


def test_vqa_rads_own_questions(real_data: Path) -> None:
    source = CaptionSource(str(real_data / "vqa_rad_224.npz"), str(real_data / "vqa_rad_224_qa.jsonl"), "vqarad-organs")
    pairs = open_captioned(source, SMALL)
    organs = ("head", "chest", "abd")  # as the questions write it
    assert len(pairs) + len(pairs.uncaptioned) == 90
    assert pairs.labels is not None
    named = [text.split(".")[0] for text in pairs.captions]
    assert [organs.index(name) for name in named] == list(pairs.labels)
