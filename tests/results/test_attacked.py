"""Attacked rows summed up over several eps, drawn as a curve, and told beside certificates, against counts by hand."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from specimens import RADII, assault, study

from medrobust.errors import RunError
from medrobust.results.attacked import summarise_attack
from medrobust.results.curve import attack_curve_svg
from medrobust.results.rows.attacked import AttackedRow
from medrobust.results.sections.attacked import attack_headline, attacked_markdown
from medrobust.results.sections.together import together_markdown, together_table
from medrobust.results.summary import AttackedSummary, RunSummary
from medrobust.results.tables import summarise

LEVELS = (1, 4)


def attacked(levels: tuple[int, ...] = LEVELS) -> list[AttackedRow]:
    """The 12 images of `study`: an attack breaks one in three at 1/255, two in three at 4/255; one is wrong anyway."""
    return [
        assault(
            id=f"image-{image:02}",
            defence=defence,
            eps=level / 255,
            broken_by="clean" if image == 7 else "pgd" if image % 3 < 1 + (level > 1) else None,
            scope="tuned on input" if defence == "tuner" else "model",
        )
        for image in range(12)
        for level in levels
        for defence in ("zero-shot", "tuner")
    ]


def attack_summary(rows: list[AttackedRow]) -> AttackedSummary:
    return replace(summarise_attack(rows), titles={"zero-shot": "some attacks"})


def both(levels: tuple[int, ...] = LEVELS) -> RunSummary:
    return RunSummary(summarise(study(), RADII), attack_summary(attacked(levels)))


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_shares_and_counts_at_each_eps() -> None:
    summary = summarise_attack(list(reversed(attacked())))
    shares = summary.robust_accuracy["zero-shot"]
    assert {title: part.hits for title, part in shares.items()} == {"pgd linf 1/255": 7, "pgd linf 4/255": 4}
    assert list(shares) == ["pgd linf 1/255", "pgd linf 4/255"]
    assert summary.eps == (1 / 255, 4 / 255)
    assert summary.broken_by["tuner"] == {"pgd linf 1/255": {"pgd": 4}, "pgd linf 4/255": {"pgd": 7}}
    assert (summary.clean_accuracy["zero-shot"].hits, summary.clean_accuracy["zero-shot"].total) == (11, 12)
    assert summary.images == 12
    with pytest.raises(RunError, match="rows of several attacks are mixed"):
        summarise_attack([attacked()[0], replace(attacked()[1], seed=1)])


def test_the_table_has_a_column_for_each_eps() -> None:
    head, _, first, second = cells(attacked_markdown(attack_summary(attacked())))
    assert head == ["defence", "scope", "clean", "robust 1/255", "robust 4/255", "broken by, at 4/255"]
    assert first[2:] == ["91.7 (61.5-99.8)", "58.3 (27.6-84.9)", "33.3 (9.9-65.2)", "pgd 7"]
    assert second[:2] == ["tuner †", "tuned on input"]
    head, *_ = cells(attacked_markdown(attack_summary(attacked((4,)))))
    assert head == ["defence", "scope", "clean", "robust", "broken by"]
    assert attack_headline(attack_summary(attacked()))[0].startswith("Under pgd linf 1/255, “zero-shot” keeps 58.3 %")


def test_a_row_that_is_not_there_yet_is_a_dash() -> None:
    assert cells(attacked_markdown(attack_summary(attacked()[:3])))[-1][3:5] == ["0.0 (0.0-97.5)", "-"]
    assert attack_curve_svg(attack_summary(attacked()[:3]))


def test_the_curve_has_a_line_for_each_defence_from_clean_to_the_largest_eps() -> None:
    svg = attack_curve_svg(attack_summary(attacked()))
    assert svg == attack_curve_svg(attack_summary(attacked()))
    assert svg is not None
    ElementTree.fromstring(svg)
    lines = [
        [tuple(map(float, pair.split())) for pair in re.findall(r"[\d.]+ [\d.]+", path)]
        for path in re.findall(r'<path d="([^"]+)" clip-path="[^"]+" style="fill: none; stroke: #(?!d9dfe5)', svg)
        + re.findall(r'<path d="([^"]+)" clip-path="[^"]+" style="fill: none; stroke-dasharray', svg)
    ]
    drawn = [line for line in lines if len(line) == 3]
    assert len(drawn) == 2
    for (left, _), (near, _), (far, _) in drawn:
        assert (near - left) / (far - left) == pytest.approx(1 / 4, abs=1e-3)
    heights = [height for _, height in drawn[0]]
    assert (heights[1] - heights[0]) / (heights[2] - heights[1]) == pytest.approx((11 - 7) / (7 - 4), abs=1e-3)
    for word in ("linf eps, grey levels of 255", "tuner † tuned on input", "pgd, 12 images"):
        assert word in svg
    assert attack_curve_svg(attack_summary(attacked((4,)))) is None


def test_the_combined_table_says_what_both_summaries_say() -> None:
    summary = both()
    table = together_table(summary)
    assert table is not None
    assert list(table.heads) == [
        "clean", "robust linf 1/255", "robust linf 4/255", "certified r = 0", "certified r = 0.25", "abstained",
    ]  # fmt: skip
    for name in ("zero-shot", "tuner"):
        (line,) = (line for line in table.lines if line.defence == name)
        (level, _), robust = summary.levels, summary.attacked.robust_accuracy[name]
        certified = level.certified_accuracy[name]
        assert list(line.shares) == [
            level.clean_accuracy[name], robust["pgd linf 1/255"], robust["pgd linf 4/255"], certified[0.0],
            certified[0.25], level.abstained[name],
        ]  # fmt: skip
    assert [line.shares[1] for line in table.lines if line.defence == "few-shot"] == [None]  # certified, not attacked
    assert [line.scope for line in table.lines] == ["model", "model", "tuned on input"]
    head, _, first, _, last = cells(together_markdown(table))
    assert head[2:] == list(table.heads)
    assert first[2:5] == ["91.7 (61.5-99.8)", "58.3 (27.6-84.9)", "33.3 (9.9-65.2)"]
    assert last[0] == "tuner †"


def test_the_combined_table_takes_the_middle_radius_and_sigma() -> None:
    certified = summarise(study((0.5,)), [0.1, 0.25])
    table = together_table(RunSummary(certified, attack_summary(attacked())))
    assert table is not None
    assert [head for head in table.heads if head.startswith("certified")] == ["certified r = 0.25"]
    certified = summarise(study((0.25,)), [0.0, 0.1, 0.25])
    table = together_table(RunSummary(certified, attack_summary(attacked())))
    assert table is not None
    assert [head for head in table.heads if head.startswith("certified")] == ["certified r = 0", "certified r = 0.25"]


def test_the_combined_table_says_where_the_two_halves_differ() -> None:
    table = together_table(both())
    assert table is not None
    assert not any("Attacked: " in note or "attacked as tuned at" in note for note in table.notes)
    rows = [replace(row, sigma=row.sigma and 0.5) for row in attacked() if row.id < "image-06"]
    table = together_table(RunSummary(summarise(study(), RADII), attack_summary(rows)))
    assert table is not None
    assert "Attacked: 6 images, certified: 12." in table.notes
    assert "attacked as tuned at σ = 0.5" in table.notes[-1]


def test_one_kind_of_rows_has_no_combined_table() -> None:
    assert together_table(RunSummary(summarise(study(), RADII))) is None
    assert together_table(RunSummary((), attack_summary(attacked()))) is None
