import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicoms import PATIENT, write_dicom
from PIL import Image as Pillow
from typer.testing import CliRunner

from medrobust.cli import app
from medrobust.data.check.report import CheckReport
from medrobust.data.check.text import check_text
from medrobust.data.task import Task
from medrobust.errors import DataError, TaskError
from medrobust.jobs.check import check_images
from medrobust.jobs.check_settings import CheckSettings
from medrobust.jobs.job import Given
from medrobust.types import Canvas, Preprocess

SMALL = Preprocess(size=8, resize=8)
TASK = Task("toy", "Toy", ("benign", "malignant"), (("B",), ("M",)), ("{}.",), "", "", "", "")
RNG = np.random.default_rng(0)


def picture(path: Path, *, size: tuple[int, int] = (16, 16), value: int | None = None, mode: str = "RGB") -> Path:
    """Noise, or one value everywhere; width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Pillow.fromarray(pixels if value is None else np.full_like(pixels, value)).convert(mode).save(path)
    return path


def check(source: str, task: Task | None, *, preprocess: Preprocess, split: str | None = None) -> CheckReport:
    return check_images(CheckSettings(data=source, split=split), given=Given(model=preprocess, data=task))


def found(source: Path | str, task: Task | None = TASK, split: str | None = None) -> dict[str, Any]:
    return check(str(source), task, preprocess=SMALL, split=split).to_json()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two splits without a fault: 3 + 1 images to learn from, 1 + 1 to test."""
    home = tmp_path / "scans"
    for name in (
        "train/benign/a.png",
        "train/B/b.png",
        "train/B/c.png",
        "train/M/d.png",
        "test/B/e.png",
        "test/M/f.png",
    ):
        picture(home / name)
    return home


def test_a_sound_folder_is_usable_and_counted(folder: Path) -> None:
    told = found(folder)
    assert told["usable"]
    assert told["problems"] == told["broken"] == told["blank"] == told["notes"] == []
    assert told["images"] == 6
    assert told["splits"] == {
        "train": {
            "images": 4,
            "classes": {"benign": 3, "malignant": 1},
            "largest_over_smallest": 3,
            "always_the_largest_class": 0.75,
        },
        "test": {
            "images": 2,
            "classes": {"benign": 1, "malignant": 1},
            "largest_over_smallest": 1,
            "always_the_largest_class": 0.5,
        },
    }
    assert found(folder, None)["splits"]["train"]["classes"] == {"B": 2, "M": 1, "benign": 1}
    assert list(found(folder, split="test")["splits"]) == ["test"]
    with pytest.raises(DataError, match="no image of split 'val'; its splits are test, train"):
        found(folder, split="val")


def test_sizes_and_kinds(tmp_path: Path) -> None:
    picture(tmp_path / "B" / "a.png", size=(20, 10))
    picture(tmp_path / "B" / "b.png", size=(20, 10), mode="L")
    picture(tmp_path / "M" / "c.png", size=(40, 30), mode="RGBA")
    Pillow.fromarray(RNG.integers(0, 65536, (8, 8), dtype=np.uint16)).save(tmp_path / "M" / "d.png")
    write_dicom(tmp_path / "M" / "e.dcm", RNG.integers(0, 4096, (8, 8), dtype=np.uint16))
    told = found(tmp_path)
    assert told["sizes"] == {
        "width": {"min": 8, "median": 20, "max": 40},
        "height": {"min": 8, "median": 10, "max": 30},
        "most_frequent": {"width": 20, "height": 10, "images": 2},
        "different": 3,
    }
    assert told["kinds"] == {
        "8-bit RGB": 1, "8-bit grey": 1, "8-bit RGBA": 1, "16-bit grey": 1, "DICOM MONOCHROME2, 12 bits, no window": 1
    }  # fmt: skip


def test_sixteen_bit_colour_is_said_to_be_read_as_eight(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + RNG.integers(0, 65536, 24, dtype=np.uint16).astype(">u2").tobytes() for _ in range(8))
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    path = picture(tmp_path / "B" / "a.png")
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    picture(tmp_path / "M" / "b.png")
    assert found(tmp_path)["kinds"] == {"16-bit RGB, read as 8-bit": 1, "8-bit RGB": 1}


def test_equal_pictures_are_found_whatever_their_files_are(folder: Path) -> None:
    with Pillow.open(folder / "train/B/b.png") as original:
        original.save(folder / "train/B/again.tif")  # other bytes, the same pixels
        original.save(folder / "train/M/other-label.bmp")
    (folder / "test/M/g.png").write_bytes((folder / "train/M/d.png").read_bytes())
    told = found(folder)
    ids = {kind: [{row["id"] for row in group} for group in told["duplicates"][kind]] for kind in
           ("within_class", "across_classes", "across_splits")}  # fmt: skip
    assert ids == {
        "within_class": [],
        "across_classes": [{"train/B/b.png", "train/B/again.tif", "train/M/other-label.bmp"}],
        "across_splits": [{"train/M/d.png", "test/M/g.png"}],
    }
    assert len(told["problems"]) == 2
    assert "carry two or more labels" in told["problems"][0]
    assert "in two or more splits" in told["problems"][1]
    (folder / "train/M/other-label.bmp").unlink()
    (folder / "test/M/g.png").unlink()
    told = found(folder)
    assert [len(group) for group in told["duplicates"]["within_class"]] == [2]
    assert told["usable"]  # a nuisance, and no wrong result


def test_broken_files_are_all_named_and_do_not_count(folder: Path) -> None:
    (folder / "train/B/a-cut.png").write_bytes((folder / "train/B/b.png").read_bytes()[:200])
    (folder / "train/B/empty.dcm").write_bytes(b"")
    (folder / "train/M/d.png").write_text("no image")
    told = found(folder)
    assert {row["id"]: row["reason"].split(":")[0].split(" (PNG")[0] for row in told["broken"]} == {
        "train/B/a-cut.png": "cannot be decoded",
        "train/B/empty.dcm": "is an empty file (0 bytes)",
        "train/M/d.png": "is not an image in a format that can be read",
    }
    assert told["splits"]["train"]["classes"] == {"benign": 3, "malignant": 0}
    assert told["splits"]["train"]["largest_over_smallest"] is None
    assert told["problems"][0].startswith("3 images are broken")
    assert told["problems"][1] == "no readable image of 'malignant' in split train"


def test_a_picture_that_a_run_would_refuse_is_broken(tmp_path: Path) -> None:
    picture(tmp_path / "B" / "a.png")
    path = picture(tmp_path / "M" / "strip.png")
    Pillow.new("L", (100_000, 1)).save(path)
    told = check(str(tmp_path), TASK, preprocess=Preprocess(size=224, resize=224))
    assert "224 x 22400000 pixels" in str(told.broken[0].reason)


def test_blank_pictures_are_those_that_the_model_sees_as_one_colour(tmp_path: Path) -> None:
    picture(tmp_path / "B" / "a.png", value=7)
    picture(tmp_path / "B" / "b.png")
    path = picture(tmp_path / "M" / "c.png", size=(48, 16), value=9)
    with Pillow.open(path) as strip:
        strip.putpixel((0, 0), (255, 0, 0))
        strip.save(path)
    told = found(tmp_path)
    assert [row["id"] for row in told["blank"]] == ["B/a.png", "M/c.png"]
    assert told["usable"]


@pytest.mark.parametrize(
    ("size", "preprocess", "outside"),
    [
        ((2048, 1536), Preprocess(size=56, resize=56), 1 - 56 / 74),
        ((100, 100), Preprocess(size=224, resize=256), 1 - (224 / 256) ** 2),
        ((30, 90), Preprocess(size=10, resize=10), 2 / 3),
        ((30, 90), Preprocess(size=10, resize=10, crop=False), 0),
    ],
)
def test_what_the_crop_leaves_out_of_each_shape(
    tmp_path: Path, size: tuple[int, int], preprocess: Preprocess, outside: float
) -> None:
    picture(tmp_path / "B" / "a.png", size=size)
    picture(tmp_path / "B" / "b.png", size=size)
    picture(tmp_path / "M" / "c.png", size=(50, 50))
    told = check(str(tmp_path), TASK, preprocess=preprocess)
    values = told.to_json()["preprocess"]
    assert values["outside_the_crop"]["most_frequent_size"] == pytest.approx(outside)
    assert values["enlarged"] == sum(min(side) < preprocess.resize for side in (size, size, (50, 50)))
    shape = f"{size[0]} x {size[1]} -> "
    kept = f"{100 * outside:.0f} % of the area outside the crop" if preprocess.crop else "squeezed to 10 x 10"
    (line,) = [line for line in check_text(told).splitlines() if line.startswith("for the model")]
    assert shape in line
    assert kept in line


def test_a_canvas_keeps_the_whole_picture(tmp_path: Path) -> None:
    picture(tmp_path / "B" / "a.png", size=(30, 90), value=200)
    picture(tmp_path / "M" / "b.png", size=(30, 90))
    told = check(str(tmp_path), TASK, preprocess=Preprocess(size=10, resize=10, canvas=Canvas(16, fit=True)))
    values = told.to_json()
    assert values["preprocess"]["outside_the_crop"]["worst"] == 0
    assert values["preprocess"]["enlarged"] == 0
    assert [image.id for image in told.blank] == ["B/a.png"]  # though the black around it is another colour
    assert "30 x 90 -> laid on a black square -> shorter side to 10" in check_text(told)
    json.dumps(values)


def test_classes_and_folders_that_do_not_agree_are_problems(folder: Path) -> None:
    picture(folder / "test" / "cyst" / "a.png")
    (folder / "test" / "M" / "f.png").rename(folder / "test" / "M" / "f.txt")
    told = found(folder)
    assert told["problems"] == [
        "no readable image of 'malignant' in split test",
        "folder test/M has no image directly in it",
        "folder test/cyst is of no class of task toy: 'benign' (B), 'malignant' (M)",
    ]
    assert told["notes"] == ["folder test/M: 1 entries that are no images left out"]
    assert found(folder, split="train")["usable"]


def test_dicom_files_that_a_folder_would_not_show_are_a_problem(folder: Path) -> None:
    write_dicom(folder / "test" / "M" / "IM0001", RNG.integers(0, 4096, (8, 8), dtype=np.uint16))
    (folder / "test" / "M" / "DICOMDIR").write_bytes((folder / "test" / "M" / "IM0001").read_bytes())
    (problem,) = found(folder)["problems"]
    assert problem.startswith(
        "folder test/M has 1 DICOM files that do not end in .dcm, which no run reads; rename them"
    )


def test_one_class_alone_is_a_problem(tmp_path: Path) -> None:
    picture(tmp_path / "B" / "a.png")
    (problem,) = found(tmp_path, None)["problems"]
    assert problem.startswith("only the class 'B'")


def test_a_manifest(folder: Path) -> None:
    rows = [
        "path,label,split,id",
        "train/B/b.png,benign,train,",
        "train/M/d.png,M,train,",
        "train/B/b.png,B,test,again",
        "test/M/f.png,cyst,test,",
        "test/B/none.png,B,test,again",
        "test/M/f.png,M,,",
    ]
    (folder / "list.csv").write_text("\n".join(rows))
    told = found(folder / "list.csv")
    assert {(row["id"], row["reason"]) for row in told["broken"]} == {
        ("again", "cannot be decoded: No such file or directory")
    }
    assert [sorted(row["split"] for row in group) for group in told["duplicates"]["across_splits"]] == [
        ["test", "train"],
        ["every", "test"],
    ]
    assert told["problems"][-3:] == [
        "line 5: task toy has no class 'cyst': 'benign' (B), 'malignant' (M)",
        "line 6: the id 'again' stands in line 4 already",
        "1 rows without a split belong to each of test, train",
    ]
    (folder / "empty.csv").write_text("path,label\n")
    with pytest.raises(DataError, match="has no row"):
        found(folder / "empty.csv")


def test_an_archive(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (6, 8, 8), dtype=np.uint8)
    images[5] = images[0]
    arrays = {"train_images": images[:4], "train_labels": np.array([[0], [1], [1], [1]])}
    arrays |= {"test_images": images[4:], "test_labels": np.array([[0], [2]]), "val_images": images[:0]}
    np.savez(tmp_path / "x.npz", **arrays, val_labels=np.zeros((0, 1), np.uint8))
    told = found(tmp_path / "x.npz")
    assert told["splits"]["train"]["classes"] == {"benign": 1, "malignant": 3}
    assert [{row["id"] for row in group} for group in told["duplicates"]["across_splits"]] == [{"train/0", "test/1"}]
    assert told["problems"][-1] == "split test has the labels [2], task toy has 0 to 1"
    assert told["kinds"] == {"8-bit grey": 6}
    told = found(tmp_path / "x.npz", None)
    assert told["splits"]["test"]["classes"] == {"0": 1, "1": 0, "2": 1}
    (tmp_path / "x.npz").rename(tmp_path / "pneumoniamnist_64.npz")
    assert found(tmp_path / "pneumoniamnist_64.npz", None)["task"] == "pneumoniamnist"


def test_the_phantom_is_sound_and_other_sources_are_refused(tmp_path: Path) -> None:
    told = found("phantom:8", None)
    assert told["usable"]
    assert [part["images"] for part in told["splits"].values()] == [8, 8, 8]
    with pytest.raises(TaskError, match="the phantom has the classes"):
        found("phantom:8")
    with pytest.raises(DataError, match="neither a name nor a path that exists; expected a folder"):
        found("nowhere")
    with pytest.raises(DataError, match="has no sub-folder, expected one for each class"):
        found(tmp_path)


# -- the command


def told_by(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["data", "check", *map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_the_command_says_first_what_it_will_do_and_ends_with_a_verdict(folder: Path) -> None:
    code, out, err = told_by(folder)
    assert code == 1  # benign and B are two classes where no task says otherwise, and B/M of test lack the third
    code, out, err = told_by(folder, "--split", "train")
    assert code == 0
    assert err.splitlines()[0] == f"check {folder}: read each of its 4 images once; nothing is written"
    assert out.splitlines()[0] == f"{folder}: 4 images, task not given"
    assert out.splitlines()[-1] == "No problem found."
    code, out, _ = told_by(folder, "--split", "train", "--json")
    told = json.loads(out)
    assert (code, told["schema_version"], told["usable"]) == (0, 1, True)
    assert told["preprocess"]["size"] == 56  # of the built-in model


def test_the_command_names_findings_and_ends_with_one(folder: Path) -> None:
    for number in range(7):
        (folder / "train" / "B" / f"cut-{number}.png").write_bytes(b"x")
    code, out, _ = told_by(folder)
    assert code == 1
    assert "broken (7):" in out
    assert "cut-4.png: is not an image" in out
    assert "cut-5.png" not in out
    assert "and 2 more; --json lists all" in out
    code, out, _ = told_by(folder, "--json")
    assert code == 1
    assert len(json.loads(out)["broken"]) == 7


def test_bad_usage_ends_with_two(folder: Path) -> None:
    for words in (("nowhere",), (folder, "--split", "none"), (folder, "--task", "none"), (folder, "--model", "none")):
        code, _, err = told_by(*words)
        assert code == 2, words
        assert len([line for line in err.splitlines() if line.startswith("medrobust: ")]) == 1


def test_no_word_about_a_patient_is_told(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 4096, (2, 16, 16), dtype=np.uint16)
    for number, name in enumerate(("B/a.dcm", "M/b.dcm")):
        write_dicom(tmp_path / name, pixels[number], **PATIENT)
    good = (tmp_path / "B" / "a.dcm").read_bytes()
    (tmp_path / "B" / "cut.dcm").write_bytes(good[:-200])
    (tmp_path / "B" / "cut-earlier.dcm").write_bytes(good[: good.index(b"Zimmermann") + 4])
    for words in ((), ("--json",)):
        code, out, err = told_by(tmp_path, *words)
        assert code == 1
        assert "is cut off" in out
        assert not any(word in out + err for word in PATIENT.values())
