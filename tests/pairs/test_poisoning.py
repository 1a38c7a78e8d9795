"""`medrobust poison`: the folder that it writes, after interruptions too."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from captioned import CAPTIONS, draw, write_rows
from typer.testing import CliRunner, Result

from medrobust.cli import app
from medrobust.data import open_image
from medrobust.jobs import poison as poisoning
from medrobust.models.clip import Clip
from medrobust.pairs import poison as poison_module
from medrobust.pairs.captioned import CaptionSource, open_captioned
from medrobust.pairs.image_attack import cosine, psnr

FAST = ["--steps", "4", "--step", "5.4/255", "--eps", "12/255", "--threads", "1"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pairs; every fourth caption holds no word that the lexicon knows."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(10):
        draw(folder / "images" / f"p{number}.png", number)
    rows = [{"id": f"p{n}", "caption": CAPTIONS[n % 4]} for n in range(10)]
    write_rows(folder / "captions.csv", [*rows[:9], {"id": "p9", "caption": ""}])
    return folder


def poison(checkpoint: Path, data: Path, out: Path, *words: object, share: str = "50%") -> Result:
    given = ["poison", "--model", checkpoint, "--data", data, "--share", share, "--out", out, *FAST, *words]
    return CliRunner().invoke(app, [str(word) for word in given])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(result: Result, sentence: str, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("medrobust:")]
    assert sentence in line


@pytest.fixture(scope="module")
def written(checkpoint: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("poisoned") / "half"
    done = poison(checkpoint, pictures, folder, share="0.5")
    assert done.exit_code == 0, done.output
    assert "4 of 9" not in done.stdout  # half of nine is rounded up
    assert "5 of 9 pairs attacked; cosine to the target" in done.stdout
    assert "left out: 1 without a caption" in done.stdout
    return folder


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "poison.json").read_text())


def test_the_manifest_agrees_with_the_files(written: Path, pictures: Path, tiny: Clip) -> None:
    said = manifest(written)
    clean = open_captioned(CaptionSource(str(pictures)), tiny.preprocess)
    made = open_captioned(CaptionSource(str(written)), tiny.preprocess)
    assert made.ids == clean.ids
    assert said["model"]["sha256"] == tiny.sha256
    assert said["share"] == {"asked": 0.5, "reached": 5 / 9}
    attacked = {row["id"]: row for row in said["pairs"]}
    assert len(attacked) == said["counts"]["attacked"] == 5
    for place, name in enumerate(clean.ids):
        before, after = clean.read(place)[None], made.read(place)[None]
        if name not in attacked:
            assert torch.equal(before, after)
            assert made.captions[place] == clean.captions[place]
            continue
        row = attacked[name]
        assert (row["caption_before"], row["caption_after"]) == (clean.captions[place], made.captions[place])
        with torch.no_grad():
            unit = torch.nn.functional.normalize(
                tiny.encode_image(clean.read(clean.ids.index(row["target"]))[None]), dim=1
            )
        assert row["cosine_before"] == pytest.approx(float(cosine(tiny.encode_image, before, unit)), abs=1e-5)
        assert row["cosine_after"] == pytest.approx(float(cosine(tiny.encode_image, after, unit)), abs=1e-5)
        assert row["cosine_after"] > row["cosine_before"]
        assert row["psnr"] == pytest.approx(float(psnr(before, after)), abs=1e-3)
        assert float((after - before).abs().max()) <= 12 / 255 + 1e-6


def test_a_caption_that_cannot_be_changed_is_counted(written: Path) -> None:
    said = manifest(written)
    for row in said["pairs"]:
        known = row["caption_before"] != CAPTIONS[2]
        assert (
            row["caption_changed"]
            == known
            == bool(row["words_changed"])
            == (row["caption_before"] != row["caption_after"])
        )
    unchanged = sum(row["caption_before"] == CAPTIONS[2] for row in said["pairs"])
    assert said["counts"]["captions_unchanged"] == unchanged > 0
    assert said["counts"]["without_caption"] == 1
    assert said["source"]["without_caption"] == ["p9"]


def test_a_larger_share_holds_the_smaller_one(checkpoint: Path, pictures: Path, written: Path, tmp_path: Path) -> None:
    done = poison(checkpoint, pictures, tmp_path / "few", share="20%")
    assert done.exit_code == 0, done.output
    few, many = manifest(tmp_path / "few")["pairs"], manifest(written)["pairs"]
    assert len(few) == 2
    keys = ("id", "target", "caption_after")
    assert [[row[key] for key in keys] for row in few] == [[row[key] for key in keys] for row in many[:2]]
    assert [row["cosine_after"] for row in few] == pytest.approx([row["cosine_after"] for row in many[:2]], abs=1e-3)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_folder_goes_on_to_the_same_bytes(
    checkpoint: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    for module in (poisoning, poison_module):
        monkeypatch.setattr(module, "BLOCK", 2)
    assert poison(checkpoint, pictures, tmp_path / "whole").exit_code == 0
    calls, attack = [], poisoning.attack_pairs

    def cut_off(*given: Any) -> Any:
        calls.append(given)
        if len(calls) > after:
            raise KeyboardInterrupt
        return attack(*given)

    monkeypatch.setattr(poisoning, "attack_pairs", cut_off)
    stopped = poison(checkpoint, pictures, tmp_path / "cut")
    assert stopped.exit_code == 130
    assert not (tmp_path / "cut" / "poison.json").exists()
    if after == 2:  # a crash in the middle of a row of the second block
        rows = tmp_path / "cut" / "unfinished.jsonl"
        rows.write_bytes(rows.read_bytes()[:-9])
    monkeypatch.setattr(poisoning, "attack_pairs", attack)
    assert poison(checkpoint, pictures, tmp_path / "cut").exit_code == 0
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_folders_that_are_taken(
    checkpoint: Path, pictures: Path, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = contents(written)
    refused(poison(checkpoint, pictures, written), "holds a finished poisoned data set; use another --out")
    assert contents(written) == held
    refused(poison(checkpoint, pictures, pictures), "holds other files (captions.csv, images); use another --out")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(poisoning, "attack_pairs", stop)
    poison(checkpoint, pictures, tmp_path / "cut")
    for words, share, differs in (
        (["--seed", 1], "50%", "seed = 0, asked for 1"),
        ([], "20%", "share = 0.5, asked for 0.2"),
    ):
        again = poison(checkpoint, pictures, tmp_path / "cut", *words, share=share)
        refused(again, f"holds a poisoned data set with {differs}; use another --out")
    (tmp_path / "cut" / "unfinished.yaml").write_text("{")
    refused(poison(checkpoint, pictures, tmp_path / "cut"), "unfinished.yaml cannot be read")


def test_images_move_to_another_collection(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    for number in range(2):
        draw(tmp_path / "other" / "deep" / f"t{number}.png", 50 + number)
    done = poison(checkpoint, pictures, tmp_path / "out", "--target", tmp_path / "other", "--images-only", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["target"]["images"] == 2
    said = manifest(tmp_path / "out")
    assert {row["target"] for row in said["pairs"]} <= {"deep/t0.png", "deep/t1.png"}
    assert not any(row["caption_changed"] for row in said["pairs"])
    (tmp_path / "other" / "deep" / "t0.png").write_bytes(b"no image")
    refused(poison(checkpoint, pictures, tmp_path / "b", "--target", tmp_path / "other"), "t0.png")


def test_captions_alone_leave_every_pixel(checkpoint: Path, pictures: Path, tmp_path: Path, tiny: Clip) -> None:
    assert poison(checkpoint, pictures, tmp_path / "out", "--captions-only", share="100%").exit_code == 0
    for number in range(9):
        paths = [folder / "images" / f"p{number}.png" for folder in (pictures, tmp_path / "out")]
        assert torch.equal(*(open_image(path, tiny.preprocess) for path in paths))


def test_labelled_images_are_poisoned_under_drawn_captions(
    checkpoint: Path, picture_folder: Path, task_file: Path, tmp_path: Path
) -> None:
    done = poison(checkpoint, picture_folder, tmp_path / "out", "--task", task_file, "--limit", 6, share="0")
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (tmp_path / "out" / "captions.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert all("paint" in line["caption"] and (tmp_path / "out" / line["image"]).is_file() for line in lines)
    assert manifest(tmp_path / "out")["counts"]["attacked"] == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--share", "10"], "did you mean 10%?"),
        (["--images-only", "--captions-only"], "neither images nor captions would be attacked"),
        (["--step", "long"], "eps 'long' is not a number"),
        (["--norm", "l3"], "no norm 'l3'"),
        (["--device", "abacus"], "device 'abacus' cannot be used here"),
    ],
)
def test_what_cannot_be_asked_for(checkpoint: Path, pictures: Path, tmp_path: Path, words: list, sentence: str) -> None:
    refused(poison(checkpoint, pictures, tmp_path / "out", *words), sentence)
    assert not (tmp_path / "out").exists()


def test_odd_ids_stay_inside_the_folder_and_apart() -> None:
    names = poisoning.file_names(("../up", "a/b", "a_b", "ü?", "x.png", "x.jpg"))
    assert names == [
        "images/%2E%2E/up.png", "images/a/b.png", "images/a_b.png", "images/%C3%BC%3F.png", "images/x.png.png",
        "images/x.jpg.png",
    ]  # fmt: skip
    short = poisoning.file_names(("x.png", "y.jpg", "/z", "z"))
    assert short == ["images/x.png", "images/y.png", "images/%2F/z.png", "images/z.png"]
