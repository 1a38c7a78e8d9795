"""`medrobust vqa`: one table of closed and open questions, the same after an interruption, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from medrobust.cli import app
from medrobust.jobs import ask as vqa
from medrobust.results.journal import read_journal
from medrobust.smoothing.bounds import Interval
from medrobust.vqa import answer as questioning
from medrobust.vqa.rows import ANSWERED, AnsweredRow
from medrobust.vqa.summary import summarise_answers
from medrobust.words import percent

WORDS = ["--threads", 1, "--batch", 5, "--eps", "8/255", "--eps", "60/255", "--attack-steps", 4, "--set", "lr=0.01",
         "--set", "epochs=15", "--set", "width=16", "--set", "batch=12", "--set", "ran.epochs=3",
         "--set", "ran.attack_steps=1", "--recipe", "linear", "--recipe", "ran"]  # fmt: skip


@pytest.fixture(scope="module")
def asked(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colour and redness of every picture, in the form of SLAKE with VQA-RAD's column of splits, and odd ones out."""
    rows: list[dict[str, Any]] = []
    for path in sorted(picture_folder.rglob("*.png")):
        name, colour = path.relative_to(picture_folder).as_posix(), path.parent.name
        about = {"img_name": name, "split": name.split("/")[0], "q_lang": "en"}
        rows.append(about | {"question": "which paint is shown?", "answer": colour.title(), "answer_type": "OPEN"})
        red = "Yes." if colour == "red" else "no"
        rows.append(about | {"question": "is it red?", "answer": red, "answer_type": "CLOSED"})
    rows.append(
        next(row for row in rows if row["split"] == "test")
        | {"question": "which mood is it?", "answer": "melancholy", "answer_type": "OPEN"}
    )
    rows.append(rows[0] | {"question": "什么颜色?", "q_lang": "zh"})
    path = tmp_path_factory.mktemp("asked") / "questions.json"
    path.write_text(json.dumps([row | {"qid": number} for number, row in enumerate(rows)]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def words(taught_checkpoint: Path, picture_folder: Path, asked: Path) -> list[object]:
    return ["--model", taught_checkpoint, "--data", picture_folder, "--questions", asked, *WORDS]


@pytest.fixture(scope="module")
def finished(words: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    done = ask(words, out)
    assert done.exit_code == 0, done.output
    assert "ask 19 questions about 9 images of" in done.stderr
    assert "1 questions are not in the language en and are left out" in done.stderr
    return out


def ask(words: list[object], out: Path, *more: object) -> Result:
    return CliRunner().invoke(app, ["vqa", *map(str, [*words, "--out", out, *more])])


def rows_in(out: Path) -> list[AnsweredRow]:
    return read_journal(out / "answered.jsonl", ANSWERED)


def test_closed_and_open_stand_apart_and_add_up(finished: Path) -> None:
    rows, found = rows_in(finished), json.loads((finished / "vqa.json").read_text())
    assert len(rows) == 19 * 3
    for recipe, parts in found["recipes"].items():
        for part, values in parts.items():
            members = [row for row in rows if row.recipe == recipe and part in (row.kind, "all")]
            assert values["questions"] == len(members) == {"closed": 9, "open": 10, "all": 19}[part]
            assert values["clean"]["hits"] == sum(row.clean == row.truth for row in members)
            for place, title in enumerate(("linf 8/255", "linf 60/255")):
                assert values["robust"][title]["hits"] == sum(row.attacked[place] == row.truth for row in members)
            assert values["clean"]["low"] < values["clean"]["value"] <= values["clean"]["high"]
    linear = found["recipes"]["linear"]["all"]
    assert linear["clean"]["hits"] == 18
    assert linear["robust"]["linf 60/255"]["hits"] < linear["robust"]["linf 8/255"]["hits"]
    assert list(found["recipes"]) == ["linear", "ran"]


def test_answers_without_an_image_stand_beside(finished: Path) -> None:
    found = json.loads((finished / "vqa.json").read_text())
    assert found["majority_answers"] == {"closed": "no", "open": "blue"}
    assert {part: share["hits"] for part, share in found["majority"].items()} == {"closed": 6, "open": 3, "all": 9}
    blind = [row for row in rows_in(finished) if row.recipe == "blind"]
    assert {row.eps for row in blind} == {()}
    assert found["blind"]["all"]["hits"] == sum(row.clean == row.truth for row in blind)
    assert len({row.clean for row in blind if row.kind == "closed"}) == 1
    outside = {part: share["hits"] for part, share in found["out_of_vocabulary"].items()}
    assert outside == {"closed": 0, "open": 1, "all": 1}
    assert (found["other_language"], found["answers"], found["images_learned_and_asked"]) == (1, 5, 0)


def test_the_table_says_the_same(finished: Path) -> None:
    text, found = (finished / "vqa.md").read_text(), json.loads((finished / "vqa.json").read_text())
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert lines[0] == ["questions", "recipe", "clean", "robust linf 8/255", "robust linf 60/255"]
    assert [line[:2] for line in lines[2:6]] == [
        ["closed (9)", "majority answer"], ["closed (9)", "blind: grey image"], ["closed (9)", "linear"],
        ["closed (9)", "ran"],
    ]  # fmt: skip
    linear = found["recipes"]["linear"]["open"]
    shares = [linear["clean"], *(linear["robust"][title[7:]] for title in lines[0][3:])]
    row = next(line for line in lines if line[:2] == ["open (10)", "linear"])
    assert row[2:] == [percent(Interval(**share)) for share in shares]
    assert "the right one is not among them for 0 of 9 closed and 1 of 10 open" in text
    assert "Not a medical device." in text


def test_attacked_answers_are_those_of_the_attack(finished: Path) -> None:
    for row in rows_in(finished):
        for eps, answer, far in zip(row.eps, row.attacked, row.distance, strict=True):
            assert (far > 0) == (answer != row.clean)
            assert far <= eps + 1e-6
            assert row.clean == row.truth or answer == row.clean


@pytest.mark.parametrize("when", ["while it learns", "while it answers"])
def test_interrupted_it_goes_on_and_ends_with_the_same_bytes(
    when: str, words: list[object], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = (questioning, "learn_answers") if when == "while it learns" else (vqa, "answer_batch")
    real, calls = getattr(module, name), []

    def interrupted(*args: Any, **how: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **how)

    monkeypatch.setattr(module, name, interrupted)
    done = ask(words, tmp_path / "run")
    assert done.exit_code == 130, done.output
    assert not (tmp_path / "run" / "vqa.json").exists()
    monkeypatch.setattr(module, name, real)
    if when == "while it answers":  # a line torn in the middle
        whole = (finished / "answered.jsonl").read_bytes()
        (tmp_path / "run" / "answered.jsonl").write_bytes(whole[: len(whole) // 2])
    done = ask(words, tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads((finished / "vqa.json").read_text())
    for file in ("vqa.json", "vqa.md", "answered.jsonl", "environment.json"):
        assert (tmp_path / "run" / file).read_bytes() == (finished / file).read_bytes()


@pytest.mark.parametrize(("more", "told"), [
    (["--seed", 1], "holds a run with seed = 0, asked for 1; use another --out"),
    (["--set", "linear.lr=0.5"], "holds a run with linear.lr = 0.01, asked for 0.5; use another --out"),
    (["--limit", 3], "holds 57 rows, asked for its first 21"),
])  # fmt: skip
def test_other_settings_in_the_same_folder_are_refused(
    more: list[object], told: str, words: list[object], finished: Path
) -> None:
    before = (finished / "answered.jsonl").read_bytes()
    done = ask(words, finished, *more)
    assert (done.exit_code, told in done.stderr) == (2, True), done.stderr
    assert (finished / "answered.jsonl").read_bytes() == before


def test_a_larger_limit_goes_on_after_the_rows_that_are_there(
    words: list[object], finished: Path, tmp_path: Path
) -> None:
    done = ask(words, tmp_path / "run", "--limit", 2)
    assert done.exit_code == 0, done.output
    few = (tmp_path / "run" / "answered.jsonl").read_bytes()
    assert 0 < len(rows_in(tmp_path / "run")) < len(rows_in(finished))
    done = ask(words, tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "answered.jsonl").read_bytes().startswith(few)
    assert [row.key for row in rows_in(tmp_path / "run")] == [row.key for row in rows_in(finished)]


def test_a_limit_asks_all_questions_of_the_first_images(words: list[object], tmp_path: Path) -> None:
    short = words[: words.index("--recipe") - 4]  # without what is set for ran, and the recipes
    done = ask(short, tmp_path / "run", "--limit", 2, "--recipe", "linear", "--set", "epochs=1")
    assert done.exit_code == 0, done.output
    rows = rows_in(tmp_path / "run")
    assert list(dict.fromkeys(row.image for row in rows)) == ["test/blue/2.png", "test/blue/5.png"]
    assert len(rows) == (3 + 2) * 2


@pytest.mark.parametrize(("more", "told"), [
    (["--questions", "nowhere.json"], "nowhere.json cannot be read: No such file or directory"),
    (["--fit-split", "dev"], "there is no question of split 'dev', only of test, train; name one of these"),
    (["--fit-split", "test"], "the questions of split test would be learned and asked; name another --split"),
    (["--recipe", "liner"], "no recipe 'liner' (did you mean 'linear'?); there are linear, mlp, nmtune, ran"),
    (["--set", "epoch=1"], "none of linear, ran has a setting 'epoch' (did you mean 'epochs'?)"),
    (["--eps", "8"], "did you mean 8/255?"),
    (["--eps", "x/255"], "eps 'x/255' is not a number; write it as 8/255 or 0.03"),
    (["--eps", "8/255"], "an eps is given twice in 8/255, 8/255, 60/255; give each once"),
    (["--language", "fr"], "no question is left, 38 are in another language than fr"),
])  # fmt: skip
def test_what_cannot_be_used_is_told_in_one_sentence(
    more: list[object], told: str, words: list[object], tmp_path: Path
) -> None:
    done = ask(words, tmp_path / "run", *more)
    assert done.exit_code == 2, done.output
    assert told in done.stderr
    assert done.stderr.splitlines()[-1].startswith("medrobust: ")


def test_a_question_about_an_image_that_is_not_there(words: list[object], asked: Path, tmp_path: Path) -> None:
    rows = json.loads(asked.read_text())
    rows[20]["img_name"] = "test/red/99.png"
    (tmp_path / "q.json").write_text(json.dumps(rows))
    other = [tmp_path / "q.json" if word == asked else word for word in words]
    done = ask(other, tmp_path / "run")
    assert done.exit_code == 2
    assert "q.json, entry 21: there is no image" in done.stderr


def test_a_state_of_another_model_or_cut_off_is_refused(
    words: list[object], finished: Path, checkpoint: Path, tmp_path: Path
) -> None:
    header, path = finished / "states" / "linear.safetensors", tmp_path / "run" / "states" / "linear.safetensors"
    for change in ("cut off", "other model"):
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = header.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if change == "cut off" else whole)
        (path.parent / "blind.safetensors").unlink(missing_ok=True)
        other = [checkpoint if change == "other model" and place == 1 else word for place, word in enumerate(words)]
        (tmp_path / "run" / "vqa.yaml").unlink(missing_ok=True)
        done = ask(other, tmp_path / "run", "--set", "epochs=15")
        assert done.exit_code == 2, done.output
        told = {"cut off": "is not a complete safetensors file", "other model": "was learned for model"}[change]
        assert told in done.stderr


# -- rows


def row_of(**change: Any) -> AnsweredRow:
    values: dict[str, Any] = {
        "id": "1", "image": "a", "kind": "closed", "recipe": "linear", "truth": "no", "in_vocabulary": True,
        "clean": "no", "norm": "linf", "eps": (0.1, 0.2), "attacked": ("no", "yes"), "distance": (0.0, 0.2),
        "steps": 20, "seed": 0,
    }  # fmt: skip
    return AnsweredRow(**(values | change))


def test_a_row_is_read_as_it_was_written() -> None:
    for row in (
        row_of(),
        row_of(eps=(), attacked=(), distance=()),
        row_of(clean="", attacked=("", ""), distance=(0.0, 0.0)),
    ):
        assert ANSWERED.from_line(ANSWERED.to_line(row)) == row


@pytest.mark.parametrize(("change", "told"), [
    ({"attacked": ("no",)}, "differ in length"), ({"eps": (0.2, 0.1)}, "eps do not ascend"),
    ({"attacked": ("yes", "no")}, "an answer that was lost came back"), ({"distance": (0.0, 0.3)}, "outside of its"),
    ({"in_vocabulary": False}, "outside of the vocabulary was given"), ({"clean": "yes"}, "came back"),
    ({"clean": "yes", "attacked": ("yes", "yes")}, "answered wrongly was attacked"),
    ({"eps": (-1.0, 0.2)}, "an eps is not above 0"),
])  # fmt: skip
def test_a_row_that_contradicts_itself_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        row_of(**change)


def test_shares_in_closed_form() -> None:
    rows = [row_of(), row_of(id="2", attacked=("no", "no"), distance=(0.0, 0.0)),
            row_of(id="3", kind="open", clean="x", attacked=("x", "x"), distance=(0.0, 0.0))]  # fmt: skip
    found = summarise_answers(rows)["linear"]
    hits = {
        part: (values.clean.hits, *(share.hits for share in values.robust.values())) for part, values in found.items()
    }
    assert hits == {"closed": (2, 2, 1), "open": (0, 0, 0), "all": (2, 2, 1)}
    assert list(found["all"].robust) == ["linf 0.1", "linf 51/255"]
