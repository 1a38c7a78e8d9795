"""All findings of an image as one answer, and each by itself, against numbers worked out by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from specimens import specimen

from medrobust.errors import RunError
from medrobust.results.findings import by_finding, joint
from medrobust.results.rows.certified import CertifiedRow
from medrobust.results.sections.certificates import markdown_table
from medrobust.results.tables import grouped, summarise

NAMES = ("edema", "mass")
# Votes of 1,000 at alpha 0.001 and sigma 0.25: 990 reach radius 0.498.., 600 reach 0.049.., 300 abstain.


def answer(image: str, finding: str, label: int, said: int, votes: int, **more: object) -> CertifiedRow:
    clean = more.pop("clean", said)
    return specimen(votes, id=image, finding=finding, label=label, selected=said, clean=clean, **more)


FOUR = [
    *(answer("both right", "edema", 1, 1, 990), answer("both right", "mass", 0, 0, 600)),
    *(answer("one wrong", "edema", 0, 1, 990), answer("one wrong", "mass", 0, 0, 990)),
    *(answer("one silent", "edema", 1, 1, 300), answer("one silent", "mass", 1, 1, 990)),
    *(answer("clean wrong", "edema", 0, 0, 990, clean=1), answer("clean wrong", "mass", 1, 1, 990)),
]


def test_rows_without_findings_stay_as_they_are() -> None:
    rows = [specimen(990, id="a"), specimen(300, id="b")]
    assert joint(rows) == rows


def test_an_image_is_right_where_all_of_its_findings_are() -> None:
    rows = {row.id: row for row in joint(FOUR)}
    assert [row.correct for row in rows.values()] == [True, False, False, True]
    assert rows["both right"].label == rows["both right"].prediction == 0b01
    assert rows["both right"].radius == FOUR[1].radius < FOUR[0].radius
    assert (rows["one wrong"].prediction, rows["one wrong"].label) == (0b01, 0)
    assert (rows["one silent"].prediction, rows["one silent"].radius, rows["one silent"].votes) == (None, 0.0, 300)
    assert (rows["clean wrong"].clean, rows["clean wrong"].label) == (0b11, 0b10)


def test_the_summary_tells_of_images_and_of_each_finding() -> None:
    (block,) = summarise(FOUR, [0.0, 0.25])
    assert (block.images, block.defences) == (4, ("zero-shot",))
    assert {key: part.hits for key, part in block.certified_accuracy["zero-shot"].items()} == {0.0: 2, 0.25: 1}
    assert block.clean_accuracy["zero-shot"].hits == 2
    assert block.abstained["zero-shot"].hits == 1
    assert block.certified_wrong["zero-shot"].hits == 1
    assert block.expected_false_certificates == pytest.approx(2 * 4 * 0.001)
    edema = block.findings["zero-shot"]["edema"]
    assert (edema.there, edema.images, edema.abstained.hits) == (2, 4, 1)
    assert [edema.sensitivity.clean.hits, edema.sensitivity.clean.total] == [2, 2]
    assert [edema.sensitivity.certified[0.25].hits, edema.sensitivity.certified[0.25].total] == [1, 2]
    assert [edema.specificity.clean.hits, edema.specificity.clean.total] == [0, 2]
    assert [edema.specificity.certified[0.25].hits, edema.specificity.certified[0.25].total] == [1, 2]
    mass = block.findings["zero-shot"]["mass"]
    assert [mass.specificity.certified[radius].hits for radius in (0.0, 0.25)] == [2, 1]
    table = markdown_table(summarise(FOUR, [0.0, 0.25]))
    assert "| edema | zero-shot | 2 of 4 | 100.0 (15.8-100.0) | 50.0 (1.2-98.8) |" in table


def test_a_finding_that_no_image_has_has_no_sensitivity() -> None:
    rows = [row for row in FOUR if row.label == 0]
    edema = by_finding(rows, [0.0])["zero-shot"]["edema"]
    assert edema.sensitivity is None
    assert edema.specificity.clean.total == 2
    table = markdown_table(summarise([row for row in FOUR if row.id == "one wrong"], [0.0]))
    assert "| edema | zero-shot | 0 of 1 | - |" in table


def test_an_image_that_was_interrupted_is_left_out_and_one_told_twice_refused() -> None:
    assert [row.id for row in joint(FOUR[:3])] == ["both right"]
    with pytest.raises(RunError, match=r"zero-shot: edema at sigma 0\.25 holds an image twice"):
        summarise([*FOUR, FOUR[0]], [0.0])
    assert set(grouped(FOUR)[0.25]) == {"zero-shot: edema", "zero-shot: mass"}


@settings(deadline=None)
@given(st.lists(st.sampled_from([990, 900, 600, 300]), min_size=1, max_size=6), st.integers(0, 63), st.integers(0, 63))
def test_together_is_never_more_than_each(votes: list[int], label: int, said: int) -> None:
    rows = [
        answer("x", f"finding {place}", label >> place & 1, said >> place & 1, count)
        for place, count in enumerate(votes)
    ]
    (whole,) = joint(rows)
    assert whole.radius == (0.0 if 300 in votes else min(row.radius for row in rows))
    assert whole.correct == all(row.correct for row in rows)
    assert (whole.prediction is None) == (300 in votes)
    assert whole.finding is None


def test_counts_are_those_of_the_finding_that_decides() -> None:
    early = {"stopping": "spending", "grid": (0.0, 0.1), "look": 32, "radius": 0.0}
    rows = [
        answer("x", "edema", 1, 1, 560, drawn=1000, **early),  # certified at radius 0
        answer("x", "mass", 1, 1, 300, trials=640, drawn=640, budget=1000, prediction=None, **early),
    ]
    (whole,) = joint(rows)
    assert (whole.prediction, whole.radius, whole.votes, whole.trials) == (None, 0.0, 300, 640)
    assert whole.drawn == 1000  # both saw the same copies
