"""The page is complete, self-contained, safe from hostile names, and the same every time."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from specimens import RADII, assault, specimen, study

from medrobust.results.attacked import summarise_attack
from medrobust.results.beside import Example, ExampleAnswer, ModelRecord, RunRecord, TaskRecord
from medrobust.results.curve import curve_svg
from medrobust.results.folder import write_report
from medrobust.results.report import RunReport
from medrobust.results.sections.certificates import markdown_table
from medrobust.results.sections.headline import certified_headline
from medrobust.results.sections.warnings import abstentions, constant_answers, one_class
from medrobust.results.summary import RunSummary
from medrobust.results.tables import grouped, summarise

HOSTILE = "<script>alert('x')</script>\"&"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Page(HTMLParser):
    """Tags, attributes and texts of a page; table cells by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.rows: list[list[str]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data + " "


def report(folder: Path, **changes: Any) -> str:
    rows = changes.pop("rows", study())
    environment = changes.pop("environment", {"torch": "2.9.1", "threads": 2, "batch": 16})
    given: dict[str, Any] = {
        "summary": RunSummary(summarise(rows, RADII)),
        "rows": rows,
        "experiment": {"smoothing": {"alpha": 0.001, "radii": RADII}, "seed": 0},
        "record": RunRecord(
            environment,
            ModelRecord("builtin", licence="Apache-2.0", sha256="ab" * 32, source="https://example.org/m"),
            TaskRecord("Blood cells", ("benign", HOSTILE), source="somewhere", licence="CC BY 4.0"),
        ),
        "examples": [
            Example(PIXEL, 0, {"few-shot": ExampleAnswer(0, 0.12399), "tuner": ExampleAnswer(None, 0.0)}),
        ],
    }
    path = write_report(folder, RunReport(**(given | changes)))
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return report(tmp_path_factory.mktemp("run"))


def test_the_page_tells_what_it_must(text: str) -> None:
    words = " ".join(Page(text).words.split())
    for fact in (
        "Not a medical device",
        "Blood cells",
        "12 images",
        "At radius 0.25 (noise σ = 0.25), “zero-shot” keeps 25.0 % (5.4–57.2)",
        "tuned on input",
        "frozen as tuned on this image, not of a system that would tune again",
        "l2 norm",
        "[0, 1]",
        "after resize and crop",
        "alpha = 0.001",
        "0.012 false certificates",
        "CC BY 4.0",
        "Apache-2.0",
        "ab" * 32,
        "2.9.1",
        "threads",
        "smoothing.alpha",
        "benign",
        "radius 0.123",
        "abstains",
    ):
        assert fact in words, fact


def test_every_defence_has_its_row_and_scope_under_each_sigma(text: str) -> None:
    rows = [[" ".join(cell.split()) for cell in row] for row in Page(text).rows]
    for name, scope in (("zero-shot", "model"), ("few-shot", "model"), ("tuner †", "tuned on input †")):
        found = [row for row in rows if len(row) == 3 + len(RADII) + 4 and row[0] == name]
        assert [row[1] for row in found] == [scope, scope]
    zero_shot = next(row for row in rows if row[0] == "zero-shot")
    assert zero_shot[2:7] == ["91.7 61.5–99.8", "58.3 27.6–84.9", "25.0 5.4–57.2", "25.0 5.4–57.2", "0.0 0.0–26.5"]
    assert zero_shot[7:] == ["33.3 9.9–65.2", "8.3 0.2–38.5", zero_shot[9], "1,000"]


def test_shares_by_class_are_counted_by_class(text: str) -> None:
    rows = [[" ".join(cell.split()) for cell in row] for row in Page(text).rows]
    assert next(row for row in rows if row[0] == "benign")[1:] == ["33 2 of 6", "67 4 of 6", "100 6 of 6"]


def test_the_page_needs_nothing_but_itself(text: str) -> None:
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    loads = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "srcset", "data")]
    assert loads
    assert all(value and value.startswith(("#", "data:image/png;base64,")) for value in loads)
    assert not re.search(r"url\((?!#)|@import", text)


def test_hostile_names_are_text(tmp_path: Path) -> None:
    rows = [replace(row, defence=HOSTILE if row.defence == "few-shot" else row.defence) for row in study((0.25,))]
    text = report(tmp_path, rows=rows, environment={HOSTILE: HOSTILE}, examples=[])
    page = Page(text)
    assert "script" not in page.tags
    assert "<script" not in text
    assert HOSTILE in page.words
    assert HOSTILE in " ".join(cell for row in page.rows for cell in row)
    ElementTree.fromstring((tmp_path / "certified_accuracy.svg").read_text())
    assert "<script" not in (tmp_path / "results.md").read_text()


def test_ids_stand_once_and_references_hit(text: str) -> None:
    page = Page(text)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    assert {value[1:] for name, value in page.attributes if name.endswith("href") and value} <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        report(tmp_path / folder)
    for name in ("report.html", "certified_accuracy.svg", "results.md"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert len(list((tmp_path / "first").iterdir())) == 3


def test_a_run_without_examples_or_tuning_or_radii(tmp_path: Path) -> None:
    rows = [specimen(300, id="a"), specimen(990, id="b")]
    text = report(tmp_path, rows=rows, summary=RunSummary(summarise(rows, [])), examples=())
    assert "Examples" not in text
    assert "(No defence in this report.)" in text


def test_robust_accuracy_is_shown_with_its_scope(tmp_path: Path) -> None:
    rows = study((0.25,))
    broken = ["pgd" if place < 6 else None for place in range(12)]
    attacks = [
        assault(id=str(place), defence="tuner", scope="tuned on input", broken_by=by) for place, by in enumerate(broken)
    ]
    summary = RunSummary(summarise(rows, RADII), summarise_attack(attacks))
    page = Page(report(tmp_path, rows=rows, summary=summary))
    assert ["tuner †", "tuned on input", "pgd linf 1/255", "100.0 73.5–100.0", "50.0 21.0–79.0", "pgd 6"] in [
        [" ".join(cell.split()) for cell in row] for row in page.rows
    ]


@pytest.mark.parametrize(
    ("votes", "trials", "clean", "said"),
    [
        (9, 9, 1, "n = 9 is too small"),
        (520, 1000, 1, "n = 1000 is too small to prove it"),
        (300, 1000, 1, "too large for this classifier"),
        (300, 1000, 0, "near chance"),
    ],
)
def test_abstention_is_given_its_reason(votes: int, trials: int, clean: int, said: str) -> None:
    rows = [specimen(votes, trials=trials, clean=clean, id=str(image)) for image in range(3)]
    reasons = abstentions(summarise(rows, RADII)[0], grouped(rows)[0.25])
    assert [name for name, _ in reasons] == ["zero-shot"]
    assert "abstains on 3 of 3 images" in reasons[0][1]
    assert said in reasons[0][1]


def test_few_abstentions_need_no_reason() -> None:
    rows = [specimen(300, id="a"), specimen(990, id="b")]
    assert abstentions(summarise(rows, RADII)[0], grouped(rows)[0.25]) == []


@pytest.mark.parametrize(("scope", "alike", "warned"), [
    ("tuned on input", 19, True), ("tuned on input", 18, False), ("model", 20, False),
])  # fmt: skip
def test_a_tuned_defence_that_answers_everything_alike_is_warned_of(
    scope: str, alike: int, warned: bool, tmp_path: Path
) -> None:
    rows = [
        specimen(1000 if place < alike else 999, id=str(place), defence="tuner", scope=scope) for place in range(20)
    ]
    found = constant_answers(summarise(rows, RADII)[0], grouped(rows)[0.25])
    assert [name for name, _ in found] == ["tuner"] * warned
    text = report(tmp_path, rows=rows, examples=())
    assert (f"same answer on {alike} of 20 images" in text) == warned


def test_the_headline_names_the_best_of_each_scope() -> None:
    rows = study()
    baseline, sound, tuned = certified_headline(summarise(rows, RADII)[0], rows)
    assert "zero-shot" in baseline
    assert "“few-shot” keeps 58.3 %" in sound
    assert "+33.3 points" in sound
    assert "p = 0.125; a difference of this size may be chance" in sound
    assert "(†, tuned on each input)" in tuned


@pytest.mark.parametrize("with_rows", [True, False])
def test_the_curve_is_valid_svg_that_marks_scope_and_limit(with_rows: bool) -> None:
    rows = study()
    svg = curve_svg(summarise(rows, RADII), rows if with_rows else ())
    ElementTree.fromstring(svg)
    assert svg.count("tuner † tuned on input") >= 2
    assert "largest possible: 0.615" in svg
    assert "noise σ = 0.5" in svg
    assert "noise σ = 0.25" not in curve_svg(summarise(rows, RADII)[1:], rows)


def test_the_markdown_table_has_every_defence_with_its_scope() -> None:
    text = markdown_table(summarise(study(), RADII))
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert {len(line) for line in lines} == {3 + len(RADII) + 4}
    assert [line[:2] for line in lines if line[0] == "| tuner †"] == [["| tuner †", "tuned on input"]] * 2
    assert "25.0 (5.4-57.2)" in text
    assert "† tuned on input" in text
    assert markdown_table(summarise(study(), RADII)[1:]).count("**σ") == 1


def test_a_pipe_in_a_name_breaks_no_table() -> None:
    rows = [specimen(defence="a|b\n<i>")]
    assert "| a\\|b &lt;i&gt; | model |" in markdown_table(summarise(rows, RADII))


def test_radii_that_say_little_are_not_praised_in_the_headline() -> None:
    rows = [specimen(700, id=str(image)) for image in range(20)]
    tuned = {"defence": "flat", "scope": "tuned on input"}
    rows += [specimen(1000, id=str(image), **tuned) for image in range(20)]
    rows += [specimen(900, id=str(image), **tuned | {"defence": "fair"}) for image in range(20)]
    told = certified_headline(summarise(rows, RADII)[0], rows)
    assert any(sentence.startswith("“fair” (†, tuned on each input) keeps 100.0 %") for sentence in told)
    assert "Of “flat” (†, tuned on each input) the radii say little, for the reason told below." in told
    assert not any("“flat”" in sentence and "keeps" in sentence for sentence in told)
    only = [row for row in rows if row.defence != "fair"]
    assert len(certified_headline(summarise(only, RADII)[0], only)) == 2


@pytest.mark.parametrize(
    ("answers", "labels", "warned"),
    [
        ([0] * 8, [0] * 4 + [1] * 4, True),
        ([0] * 8 + [None] * 3, [0] * 5 + [1] * 6, True),
        ([0] * 7 + [1], [0] * 4 + [1] * 4, False),  # another class, once
        ([0] * 7 + [None], [0] * 4 + [1] * 4, False),  # too few
        ([0] * 8, [0] * 8, False),  # there is one class only
        ([None] * 8, [0] * 4 + [1] * 4, False),
    ],
)
def test_a_defence_that_names_one_class_is_warned_of(
    answers: list[int | None], labels: list[int], warned: bool, tmp_path: Path
) -> None:
    rows = [
        specimen(300 if answer is None else 990, id=str(place), label=label, selected=answer or 0)
        for place, (answer, label) in enumerate(zip(answers, labels, strict=True))
    ]
    found = one_class(grouped(rows)[0.25])
    assert [name for name, _ in found] == ["zero-shot"] * warned
    sure, right = sum(answer is not None for answer in answers), labels.count(0)
    text = report(tmp_path, rows=rows, examples=())
    assert (f"the same class to all {sure} images" in text) == warned
    assert (f"right on the {right} of {len(labels)} that" in text) == warned
