"""Captions turned into their opposites, against sentences written by hand."""

import json
import re
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from medrobust.errors import DataError
from medrobust.pairs.caption_attack.attack import AttackedCaption, Change, attack_caption, attack_captions
from medrobust.pairs.caption_attack.lexicon import load_lexicon

WORDS = sorted({words for words in load_lexicon().terms if not re.search(r"[\d.,;:!?()]", words)})


def attacked(text: str) -> str:
    return attack_caption(text).text


def rebuilt(old: str, changed: tuple[Change, ...]) -> str:
    """The old caption with nothing but the declared changes, made from the last to the first."""
    for start, was, now in reversed(changed):
        assert old[start : start + len(was)] == was
        old = old[:start] + now + old[start + len(was) :]
    return old


@st.composite
def sentences(draw: st.DrawFn) -> str:
    """Known words, unknown words, digits and punctuation in any order."""
    word = st.sampled_from(WORDS) | st.sampled_from(["a", "an", "the", "of", "in", "zone", "grade", "3", "5.6", "L4"])
    spelled = st.tuples(word, st.sampled_from([str, str.capitalize, str.upper])).map(lambda pair: pair[1](pair[0]))
    parts = draw(st.lists(st.tuples(spelled, st.sampled_from(["", "", "", ",", ".", "?", ";", ")"])), max_size=12))
    return draw(st.sampled_from(["", " ", "("])) + " ".join(a + b for a, b in parts)


@given(sentences() | st.text(), st.integers(0, 3))
def test_all_but_the_declared_changes_stays(text: str, seed: int) -> None:
    result = attack_caption(text, seed=seed)
    assert result == attack_caption(text, seed=seed)
    assert rebuilt(text, result.changed) == result.text
    assert result.unchanged == (result.text == text)
    assert all(was != now for _, was, now in result.changed)


@given(sentences())
def test_digits_punctuation_and_sentences_survive(text: str) -> None:
    marks = re.compile(r"[\d.,;:!?()]|\s$")
    assert marks.findall(attacked(text)) == marks.findall(text)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("No tumour.", "A tumour."),
        ("No abnormality", "An abnormality"),
        ("NO ABNORMALITY", "AN ABNORMALITY"),
        ("no abnormal mass", "an abnormal mass"),
        ("There is no oedema.", "There is oedema."),
        ("No oedema, no lesions.", "Oedema, lesions."),
        ("No left-sided oedema. No anterior oedema.", "Right-sided oedema. Posterior oedema."),
        ("Without any mass", "With a mass"),
        ("It does not show any oedema", "It does show oedema"),
        ("No MRI lesion", "An MRI lesion"),
        ("No evidence of a large mass", "Evidence of a large mass"),
        ("There are no enlarged lymphomas", "There are enlarged lymphomas"),
        ("The scan shows no fracture or mass.", "The scan shows a fracture or mass."),
        ("The uvula is not enlarged.", "The uvula is enlarged."),
        ("It isn't visible", "It is visible"),
        ("It does not show any large mass", "It does show a large mass"),
        ("abnormal findings are not present", "abnormal findings are present"),
        ("clear without consolidation", "opacified with consolidation"),
        ("Free of effusion", "Full of effusion"),
        ("Negative for malignancy", "Positive for malignancy"),
        ("abnormal nails are absent", "abnormal nails are present"),
        ("increased opacity", "decreased opacity"),
        ("enlarged uvula, no oedema", "shrunken uvula, oedema"),
        ("no oedema, enlarged uvula", "oedema, shrunken uvula"),
        ("No", "Yes"),
        ("Yes, it is enlarged.", "No, it is shrunken."),
        ("a mass is present", "a mass is absent"),
    ],
)
def test_a_denial_goes_and_one_truth_turns_a_clause(caption: str, expected: str) -> None:
    assert attacked(caption) == expected


@pytest.mark.parametrize(
    "caption",
    [
        "", "   ", "?", "Figure 3", "Bild ohne Befund", "any", "any mass", "Table No. 5", "No. 5", "he says no.", "not",
        "at present", "no longer", "or not?", "not sure", "the patient left the hospital", "left in place",
        "Is this right", "pre-renal", "heartily", "mid-left", "cns", "lens-shaped", "the left or the right",
        "right/left", "normal or abnormal", "is there a mass present?", "patients present with cough",
        "gray or white matter", "frontal, parietal, temporal and occipital",
    ],
)  # fmt: skip
def test_what_the_attack_does_not_know_or_must_not_touch_stays(caption: str) -> None:
    assert attack_caption(caption) == AttackedCaption(caption, ())


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("left nail, right toenail", "right nail, left toenail"),
        ("on the right after surgery", "on the left after surgery"),
        ("left-sided, left-to-right shunt", "right-sided, right-to-left shunt"),
        ("the left nail moved to the right", "the right nail moved to the left"),
        ("SMALL Small small", "LARGE Large large"),
        ("Small Cell Carcinoma", "Non-small Cell Carcinoma"),
        ("a large cell, granulocytes", "a small cell, granulocytes"),
        ("white matter and White Matter", "gray matter and Gray Matter"),
        ("chest wall", "abdominal wall"),
        ("small  intestine\ntumour", "large bowel\ntumour"),
        ("frontal view", "lateral view"),
        ("a lateral radiograph", "a frontal radiograph"),
        ("an acute stroke, a chronic one", "a chronic stroke, an acute one"),
        ("An anterior mass", "A posterior mass"),
        ("AN UPPER MASS", "A LOWER MASS"),
        ("A benign and an old one, an unilateral", "A malignant and a new one, an bilateral"),
        ("an symmetric one", "an asymmetric one"),
        ("a T1-weighted IVC", "a T2-weighted SVC"),
        ("an SVC", "an IVC"),
        ("ribs, a rib", "vertebrae, a vertebra"),
        ("opacities", "lucencies"),
        ("ovaries or an ovary", "testes or a testis"),
    ],
)
def test_case_number_article_and_longest_match(caption: str, expected: str) -> None:
    assert attacked(caption) == expected


def test_a_body_part_is_the_same_throughout_and_never_one_that_is_named() -> None:
    for seed in range(20):
        result = attack_caption("Lung and LUNGS; liver near spleen, the belly and the abdomen", seed=seed)
        now = {was.casefold(): now.casefold() for _, was, now in result.changed}
        assert now["lungs"] == now["lung"] + "s"
        assert now["belly"] == now["abdomen"]
        assert len({"liver", "spleen", now["liver"], now["spleen"]}) == 4
    assert attacked("lung, kidney") == "breast, lung"


def test_the_choice_hangs_on_caption_word_and_seed_alone() -> None:
    chosen = set()
    for seed in range(30):
        caption = f"femur in plate {seed % 3}"
        others = ["tibia", "fibula", "humerus", "radius", "ulna"]
        expected = min(others, key=lambda bone: sha256(f"{seed}\x1f{caption}\x1f{bone}".encode()).digest())
        assert attack_caption(caption, seed=seed).changed == (Change(0, "femur", expected),)
        chosen.add(expected)
    assert chosen == set(others)


def test_captions_are_counted() -> None:
    report = attack_captions(["A normal toenail", "", "Figure 2", "small"])
    assert report.captions == ("An abnormal toenail", "", "Figure 2", "large")
    assert report.changes[0] == (Change(0, "A", "An"), Change(2, "normal", "abnormal"))
    assert (report.changed, report.unchanged, report.share) == (2, 2, 0.5)
    empty = attack_captions([])
    assert (empty.changed, empty.unchanged) == (0, 0)
    assert empty.share != empty.share


def test_a_function_of_the_user_rewrites_instead() -> None:
    seen: list[str] = []
    answers: dict[str, Any] = {"left": "middle", "normal": "", "small": " small ", "chest": None, "rib": 3}

    def rewrite(caption: str) -> Any:
        seen.append(caption)
        return answers[caption]

    report = attack_captions([*answers, " "], rewrite)
    assert report.captions == ("middle", "normal", "small", "chest", "rib", " ")
    assert report.changes == ((Change(0, "left", "middle"),), (), (), (), (), ())
    assert report.unchanged == 5
    assert seen == list(answers)


def test_what_the_users_function_raises_goes_through() -> None:
    def rewrite(caption: str) -> str:
        raise ConnectionError("offline")

    with pytest.raises(ConnectionError, match="offline"):
        attack_captions(["left"], rewrite)


@pytest.mark.parametrize("missing", [None, float("nan"), 3, b"left"])
def test_a_missing_caption_is_named(missing: object) -> None:
    with pytest.raises(DataError, match=r"^caption 2 is .*, expected text; leave out images that have none$"):
        attack_captions(iter(["left", "", missing, None]))


def test_one_text_is_not_a_list_of_letters() -> None:
    with pytest.raises(DataError, match="put it in a list"):
        attack_captions("left lung")


def test_real_questions(real_data: Path) -> None:
    path = real_data / "vqa_rad_224_qa.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path.name} in {real_data.name}")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    questions = sorted({row["question"].strip() for row in rows})
    report = attack_captions(questions)
    assert report.share > 0.60, (
        f"{report.changed} of {len(questions)}"
    )  # the others ask for "the lesion" or how it was taken
    now = dict(zip(questions, report.captions, strict=True))
    for question, expected in [
        ("Are there skull fractures present?", r"Are there (spine|sternum|mandible) fractures present\?"),
        ("Is the left kidney abnormal?", r"Is the right (lung|breast) normal\?"),
        ("Is there an enhancing lesion in the liver?", r"Is there a non-enhancing lesion in the (?!liver)\w+\?"),
        ("Are the ventricles an abnormal size?", r"Are the (sulci|cisterns) a normal size\?"),
        ("Is the appendix non-enlarged?", r"Is the (?!appendix)\w+ enlarged\?"),
        ("Is there a left apical pneumothorax?", r"Is there a right basal pneumo(?!thorax)\w+\?"),
        ("Is the patient lying supine?", r"Is the patient lying prone\?"),
        ("are there increased vascular markings", "are there decreased vascular markings"),
        ("Why do you not see sulci in the image?", r"Why do you see (ventricles|cisterns) in the image\?"),
        ("Which lung lobe has the least opacities?", r"Which (kidney|breast) lobe has the least lucencies\?"),
        ("Is the lesion on the left or right?", r"Is the lesion on the left or right\?"),
        ("What modality is this?", r"What modality is this\?"),
        ("Where is the lesion?", r"Where is the lesion\?"),
    ]:
        assert re.fullmatch(expected, now[question]), now[question]


def test_captions_of_the_builtin_model() -> None:
    book = yaml.safe_load((files("medrobust.pairs") / "captions.yaml").read_text(encoding="utf-8"))
    captions = {
        frame.format(name)
        for own in book.values()
        for frame in own["frames"]
        for names in own["classes"].values()
        for name in names
    }
    assert attack_captions(sorted(captions)).share > 0.95  # the others show the background
