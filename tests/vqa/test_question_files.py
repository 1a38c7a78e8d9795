"""Questions and answers: VQA-RAD's and SLAKE's columns, splits and languages, what is refused, how answers compare."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture

from medrobust.errors import BrokenImageError, DataError
from medrobust.types import Preprocess
from medrobust.vqa import images as module
from medrobust.vqa.images import home_of, open_gallery
from medrobust.vqa.questions import Question, Vocabulary, majority, normalised_answer, read_questions

SMALL = Preprocess(size=8, resize=8)
RAD = [
    {"qid": 0, "image_name": "a.jpg", "question": "Is there a fracture?", "answer": "No", "answer_type": "CLOSED ",
     "phrase_type": "freeform"},
    {"qid": 1, "image_name": "b.jpg", "question": "Where is it?", "answer": " Right  lung. ", "answer_type": " open",
     "phrase_type": "para"},
    {"qid": 2, "image_name": "a.jpg", "question": "How many are there?", "answer": 2, "answer_type": "OPEN",
     "phrase_type": "test_freeform"},
    {"qid": 3, "image_name": "b.jpg", "question": "Is it large?", "answer": "yes", "answer_type": "CLOSED",
     "phrase_type": "test_para"},
]  # fmt: skip
SLAKE = [
    {"img_id": 1, "img_name": "xmlab1/source.jpg", "question": "What modality is used?", "answer": "MRI",
     "q_lang": "en", "answer_type": "OPEN", "qid": 0, "content_type": "Modality"},
    {"img_id": 1, "img_name": "xmlab1/source.jpg", "question": "是什么模态?", "answer": "MRI", "q_lang": "zh",
     "answer_type": "OPEN", "qid": 1, "content_type": "Modality"},
]  # fmt: skip


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
    return path


def questions(*images: str) -> list[Question]:
    return [Question(str(i), image, "?", "yes", "closed", "test", f"q, line {i}") for i, image in enumerate(images)]


# -- reading


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_vqa_rad_in_three_formats(tmp_path: Path, suffix: str) -> None:
    found = read_questions([written(tmp_path / f"VQA_RAD{suffix}", RAD)])
    assert [(one.id, one.image, one.text, one.truth, one.kind, one.split) for one in found.questions] == [
        ("0", "a.jpg", "Is there a fracture?", "no", "closed", "train"),
        ("1", "b.jpg", "Where is it?", "right lung", "open", "train"),
        ("2", "a.jpg", "How many are there?", "2", "open", "test"),
        ("3", "b.jpg", "Is it large?", "yes", "closed", "test"),
    ]
    assert (found.other_language, found.guessed, found.skipped) == (0, 0, ())
    assert [one.id for one in found.of("test")] == ["2", "3"]
    with pytest.raises(DataError, match=r"^there is no question of split 'val', only of test, train; name one"):
        found.of("val")


def test_slakes_files_tell_their_splits_and_other_languages_are_counted(tmp_path: Path) -> None:
    names = {"train.json": "train", "validate.json": "val", "test.json": "test"}
    paths = [written(tmp_path / name, [row | {"qid": 10 * i + row["qid"]} for row in SLAKE])
             for i, name in enumerate(names)]  # fmt: skip
    english, chinese = read_questions(paths), read_questions(paths, language="zh")
    assert [one.split for one in english.questions] == list(names.values())
    assert {one.image for one in english.questions} == {"xmlab1/source.jpg"}
    assert [one.id for one in chinese.questions] == ["1", "11", "21"]
    assert english.other_language == chinese.other_language == 3
    with pytest.raises(DataError, match="no question is left, 6 are in another language than fr"):
        read_questions(paths, language="fr")


def test_columns_in_any_case_and_a_split_column_that_wins(tmp_path: Path) -> None:
    row = {"Image_Name": "a.jpg", "QUESTION": "Is it?", "Answer": "yes", "Split": "Validation",
           "phrase_type": "test_para"}  # fmt: skip
    (found,) = read_questions([written(tmp_path / "test.csv", [row])]).questions
    assert (found.split, found.id, found.kind) == ("val", "test/2", "closed")


def test_without_a_kind_yes_and_no_are_closed(tmp_path: Path) -> None:
    rows = [{"image": "a", "question": "?", "answer": answer} for answer in ("Yes.", "NO", "maybe", "no sign of it")]
    found = read_questions([written(tmp_path / "train.jsonl", rows)])
    assert [one.kind for one in found.questions] == ["closed", "closed", "open", "open"]
    assert found.guessed == 4


def test_in_an_archive_split_and_row_name_the_image(tmp_path: Path) -> None:
    rows = [RAD[0] | {"split": "val", "row": 7}]
    (found,) = read_questions([written(tmp_path / "x.jsonl", rows)], in_archive=True).questions
    assert found.image == "val/7"
    with pytest.raises(DataError, match=r"x\.json has no column row, only answer, answer_type, "):
        read_questions([written(tmp_path / "x.json", RAD)], in_archive=True)


def test_the_official_split_goes_before_the_column_that_still_names_the_image(tmp_path: Path) -> None:
    rows = [row | {"split": "val", "row": place} for place, row in enumerate(RAD)]
    path = written(tmp_path / "x.jsonl", rows)
    found = read_questions([path], in_archive=True, official=True).questions
    assert [(one.split, one.image) for one in found] == [
        ("train", "val/0"), ("train", "val/1"), ("test", "val/2"), ("test", "val/3"),
    ]  # fmt: skip
    assert {one.split for one in read_questions([path], in_archive=True).questions} == {"val"}
    plain = written(tmp_path / "y.jsonl", [{key: row[key] for key in row if key != "phrase_type"} for row in rows])
    with pytest.raises(DataError, match=r"y\.jsonl has no phrase_type that begins with test, so the official split"):
        read_questions([plain], in_archive=True, official=True)


@pytest.mark.parametrize(("change", "told"), [
    ({"question": " "}, "line 2: the question is blank; mend it or pass --skip-broken"),
    ({"answer": " ."}, "line 2: the answer is blank; mend it or pass --skip-broken"),
    ({"answer": None}, "line 2: the answer is blank"),
    ({"answer": True}, "line 2: answer is True, expected text or a whole number"),
    ({"answer_type": "half"}, "line 2: answer_type is 'half', expected open or closed"),
    ({"image_name": ""}, "line 2: no image is named"),
    ({"qid": 2, "phrase_type": "test_para"}, r"line 2: the id '2' stands in .*line 1 already; keep one"),
])  # fmt: skip
def test_a_bad_row_is_refused_with_its_line(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=rf"rad\.jsonl, {told}"):
        read_questions([written(tmp_path / "rad.jsonl", [RAD[2], RAD[1] | change])])


def test_blank_rows_may_be_left_out_and_are_told(tmp_path: Path) -> None:
    path = written(tmp_path / "rad.json", [RAD[0], RAD[1] | {"question": ""}, RAD[2] | {"answer": ""}, RAD[3]])
    found = read_questions([path], skip_broken=True)
    assert [one.id for one in found.questions] == ["0", "3"]
    assert found.skipped == (f"{path}, entry 2", f"{path}, entry 3")


@pytest.mark.parametrize(("name", "text", "told"), [
    ("a.json", "", "is not JSON"), ("a.json", '{"question": 1}', "is not a JSON list of objects"),
    ("a.json", "[]", "holds no question"), ("a.jsonl", "\n", "holds no question"), ("a.csv", "", "holds no question"),
    ("a.csv", "q,a\n1,2\n", "has no column question, only a, q"), ("a.txt", "", "is not a file of questions"),
    ("a.csv", "question,answer\n1,2\n", "has no column image_name or img_name or image, only answer, question"),
    ("a.csv", "question,answer,image\n1,2,3\n", "line 2: nothing tells the split; add a column split"),
])  # fmt: skip
def test_a_file_that_is_none_is_refused(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=told):
        read_questions([tmp_path / name])


def test_a_missing_file_and_other_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.jsonl cannot be read: No such file"):
        read_questions([tmp_path / "no.jsonl"])
    for suffix in ("json", "jsonl", "csv"):
        (tmp_path / f"x.{suffix}").write_bytes(b"question\xff")
        with pytest.raises(DataError, match=r"is not UTF-8 text \(byte 8\)"):
            read_questions([tmp_path / f"x.{suffix}"])


# -- answers


@given(st.text(max_size=20), st.sampled_from(["", " ", "\n"]), st.sampled_from(["", ".", " .", ".."]))
def test_case_spaces_and_final_dots_do_not_matter(answer: str, space: str, dot: str) -> None:
    plain = normalised_answer(answer)
    assert normalised_answer(plain) == plain
    assert normalised_answer(space + answer + dot + space) == plain
    assert normalised_answer(answer.replace(" ", "  ")) == plain
    assert "  " not in plain
    assert plain == plain.strip()


def test_answers_that_differ_stay_apart() -> None:
    words = ["left", "right", "left lung", "no", "not", "3.5 cm", "35 cm", "t-1", "t1", "2", "two"]
    assert len({normalised_answer(word) for word in words}) == len(words)
    assert normalised_answer("  Right   LUNG. ") == "right lung"


def test_the_vocabulary_is_that_of_the_questions_learned_from() -> None:
    told = ["No", "yes", "no.", "Left"]
    vocabulary = Vocabulary.of(Question("", "", "", answer, "open", "", "") for answer in told)
    assert vocabulary.answers == ("left", "no", "yes")
    assert [vocabulary.index_of(answer) for answer in ("NO", "left ", "right")] == [1, 0, None]
    with pytest.raises(DataError, match="have the answer yes; give questions with two answers"):
        Vocabulary.of(questions("a", "b"))


def test_the_majority_of_each_kind() -> None:
    told = [("yes", "closed"), ("No", "closed"), ("no", "closed"), ("mri", "open"), ("ct", "open"), ("yes", "open")]
    asked = [Question("", "", "", answer, kind, "", "") for answer, kind in told]
    assert majority(asked) == {"closed": "no", "open": "ct"}


# -- images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("a.png", "b.png", "sub/c.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Picture.new("L", (8, 8), 51 * number).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"no image")
    return tmp_path


def test_every_image_is_decoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = module.open_image

    def counted(path: Path, preprocess: Preprocess) -> Any:
        opened.append(path.name)
        return real(path, preprocess)

    monkeypatch.setattr(module, "open_image", counted)
    asked = questions("a.png", "sub/c.png", "a.png", "b.png", "a.png")
    found = open_gallery(str(folder), asked, SMALL)
    assert opened == ["a.png", "c.png", "b.png"]
    assert found.of(asked)[:, 0, 0, 0].tolist() == pytest.approx([0, 0.4, 0, 0.2, 0])


@pytest.mark.parametrize(("image", "error", "told"), [
    ("broken.png", BrokenImageError, r"^q, line 1: .*broken\.png is not an image .*; mend it or pass --skip-broken$"),
    ("no.png", DataError, r"^q, line 1: there is no image .*no\.png; mend it or pass --skip-broken$"),
])  # fmt: skip
def test_a_missing_or_broken_image_is_refused_or_left_out(
    folder: Path, image: str, error: type[Exception], told: str
) -> None:
    asked = questions("a.png", image, "b.png", image)
    with pytest.raises(error, match=told):
        open_gallery(str(folder), asked, SMALL)
    found = open_gallery(str(folder), asked, SMALL, skip_broken=True)
    assert [one.id for one in found.questions] == ["0", "2"]
    assert found.skipped == ("q, line 1", "q, line 3")
    with pytest.raises(DataError, match="has none of the images of 1 questions"):
        open_gallery(str(folder), [asked[1]], SMALL, skip_broken=True)


def test_rows_of_an_archive(tmp_path: Path) -> None:
    levels = np.arange(4, dtype=np.uint8)[:, None, None] * np.full((8, 8), 51, dtype=np.uint8)
    np.savez(tmp_path / "x.npz", test_images=levels, val_images=levels[::-1])  # no labels: nothing needs them
    path = str(tmp_path / "x.npz")
    asked = questions("test/1", "val/0", "test/1")
    assert open_gallery(path, asked, SMALL).of(asked)[:, 0, 0, 0].tolist() == pytest.approx([0.2, 0.6, 0.2])
    for image, told in (("test/4", "no row '4' among the 4 images of split test"), ("dev/0", "has no dev_images")):
        with pytest.raises(DataError, match=rf"^q, line 0: .*{told}"):
            open_gallery(path, questions(image), SMALL)
    assert home_of(path) == tmp_path
    with pytest.raises(DataError, match=r"nowhere is neither a folder of images nor an \.npz"):
        home_of(str(tmp_path / "nowhere"))


def test_vqa_rad_as_it_is(real_data: Path) -> None:
    found = read_questions([real_data / "vqa_rad_224_qa.jsonl"], in_archive=True)
    counts = {split: len(found.of(split)) for split in ("train", "val", "test")}
    assert counts == {"train": 623, "val": 129, "test": 744}
    images = open_gallery(str(real_data / "vqa_rad_224.npz"), found.questions, SMALL).images
    assert len(images) == 90 + 15 + 104
    asked, vocabulary = found.of("test"), Vocabulary.of(found.of("train"))
    assert sum(one.kind == "closed" for one in asked) == 416
    assert sum(one.kind == "closed" and one.truth == "no" for one in asked) == 204
    opened = [one for one in asked if one.kind == "open"]
    assert (len(opened), sum(vocabulary.index_of(one.answer) is not None for one in opened)) == (328, 80)
