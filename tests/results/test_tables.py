"""Tables against numbers worked out by hand and against scipy."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom
from specimens import RADII, specimen, study

from medrobust.errors import RunError, StorageError
from medrobust.results.summary import RunSummary, read_summary, write_summary
from medrobust.results.tables import paired_gain, summarise
from medrobust.words import number_key

# Radii of 1,000 trials at alpha 0.001 and sigma 0.25: 990 votes 0.498.., 600 votes 0.049.., 300 votes abstain.
FOUR = [
    specimen(990, id="a"),
    specimen(600, id="b", clean=0),
    specimen(300, id="c"),
    specimen(1000, id="d", selected=0, clean=None),  # certified, and wrong
]


def test_a_block_worked_out_by_hand() -> None:
    (block,) = summarise(FOUR, [0.25, 0.0, 0.1, 0.25])
    right = [FOUR[0].radius, FOUR[1].radius]
    assert right == pytest.approx([0.4980, 0.0492], abs=2e-2)
    assert block.radii == (0.0, 0.1, 0.25)
    assert {key: part.hits for key, part in block.certified_accuracy["zero-shot"].items()} == {0.0: 2, 0.1: 1, 0.25: 1}
    assert block.clean_accuracy["zero-shot"].value == 0.5
    assert block.abstained["zero-shot"].hits == 1
    assert block.certified_wrong["zero-shot"].hits == 1
    assert block.average_certified_radius["zero-shot"] == pytest.approx(sum(right) / 4, abs=1e-6)
    assert block.average_certified_radius["zero-shot"] <= sum(right) / 4
    assert block.mean_certified_radius["zero-shot"] == pytest.approx(sum(right) / 2, abs=1e-6)
    assert block.mean_samples == {"zero-shot": 1000}
    assert block.scope == {"zero-shot": "model"}
    assert block.images == 4
    assert block.expected_false_certificates == 0.004
    assert block.largest_radius == FOUR[3].radius
    assert block.to_json()["robust_accuracy"] == {}


@pytest.mark.parametrize("hits", [0, 1, 5, 12])
def test_intervals_are_scipys(hits: int) -> None:
    rows = [specimen(990 if image < hits else 300, id=str(image)) for image in range(12)]
    part = summarise(rows, RADII)[0].certified_accuracy["zero-shot"][0.25]
    low = beta.ppf(0.025, hits, 13 - hits) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, 12 - hits) if hits < 12 else 1.0
    assert (part.hits, part.total, part.value) == (hits, 12, hits / 12)
    assert (part.low, part.high) == pytest.approx((low, high), abs=1e-9)


def test_an_image_counts_at_its_own_radius_and_not_above() -> None:
    row = specimen(990)
    shares = summarise([row], [row.radius, row.radius + 1e-6])[0].certified_accuracy["zero-shot"]
    assert [part.hits for part in shares.values()] == [1, 0]


def test_a_radius_tested_on_a_grid_counts_at_that_radius() -> None:
    rows = [
        specimen(id=str(radius), stopping="spending", grid=tuple(RADII), radius=radius, prediction=1)
        for radius in RADII
    ]
    (block,) = summarise(rows, RADII)
    assert [part.hits for part in block.certified_accuracy["zero-shot"].values()] == [4, 3, 2, 1]
    assert block.largest_radius == 0.5


def test_the_top_block_is_that_of_the_first_sigma() -> None:
    summary = RunSummary(summarise(study((0.5, 0.25)), RADII)).to_json()
    assert summary["sigmas"] == [0.5, 0.25]
    assert list(summary["by_sigma"]) == ["0.5", "0.25"]
    assert all(summary[name] == value for name, value in summary["by_sigma"]["0.5"].items())
    assert summary["defences"] == ["zero-shot", "few-shot", "tuner"]
    assert summary["schema_version"] == 1


def test_no_right_answer_has_no_mean_radius() -> None:
    assert summarise([specimen(300)], RADII)[0].mean_certified_radius == {"zero-shot": None}


@pytest.mark.parametrize(
    ("name", "value"),
    [("alpha", 0.01), ("scope", "tuned on input"), ("budget", 2000), ("look", 10), ("seed", 1), ("selection", 10)],
)
def test_mixed_settings_are_refused(name: str, value: object) -> None:
    with pytest.raises(RunError, match=f"zero-shot at sigma 0.25 mixes rows with {name}"):
        summarise([specimen(id="a"), specimen(id="b", **{name: value})], RADII)


def test_trials_may_differ_where_sampling_stops_early() -> None:
    early = {"stopping": "anytime", "budget": 500, "look": 32}
    rows = [specimen(90, id=str(drawn), trials=96, drawn=drawn, **early) for drawn in (100, 200)]
    assert summarise(rows, RADII)[0].mean_samples == {"zero-shot": 150}


def test_nothing_twice_and_nothing_at_all_are_refused() -> None:
    with pytest.raises(RunError, match="an image twice"):
        summarise([specimen(), replace(specimen(), label=0)], RADII)
    with pytest.raises(RunError, match="no certificates"):
        summarise([], RADII)
    with pytest.raises(RunError, match="not negative"):
        summarise([specimen()], [-1.0])


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_a_paired_gain_is_mcnemars(won: int, lost: int, both: int) -> None:
    kinds = [(990, 300)] * won + [(300, 990)] * lost + [(990, 990)] * both + [(300, 300)]
    rows = [
        specimen(votes[index], id=str(image), defence=name)
        for image, votes in enumerate(kinds)
        for index, name in enumerate(["few-shot", "zero-shot"])
    ]
    gain, p_value = paired_gain(rows, "few-shot", "zero-shot", 0.25, 0.25)
    assert gain == pytest.approx(100 * (won - lost) / len(kinds))
    tail = binom.cdf(min(won, lost), won + lost, 0.5)
    assert p_value == pytest.approx(min(1.0, 2 * tail))


def test_a_pair_needs_common_images() -> None:
    rows = [specimen(id="a"), specimen(id="b", defence="few-shot")]
    with pytest.raises(RunError, match="no image in common"):
        paired_gain(rows, "few-shot", "zero-shot", 0.25, 0.1)


@given(st.floats(1e-6, 1e6))
def test_number_keys_read_back(number: float) -> None:
    assert float(number_key(number)) == number


@pytest.mark.parametrize(
    ("radii", "votes", "wanted"), [(RADII, 1000, 0.25), ([0.3, 0.4], 1000, 0.3), ([0.0], 1000, 0.0), ([9.0], 9, 0.0)]
)
def test_the_radius_to_speak_of(radii: list[float], votes: int, wanted: float) -> None:
    assert summarise([specimen(votes, trials=votes)], radii)[0].middle_radius == wanted


def test_a_summary_reads_back_and_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run" / "summary.json"
    summary = RunSummary(summarise(study(), RADII))
    write_summary(path, summary)
    assert read_summary(path) == summary
    text = path.read_text()
    assert text.endswith("}\n")
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"summary.json: the disk is full; what was written before is safe"):
        write_summary(path, RunSummary(summarise(FOUR, RADII)))
    assert path.read_text() == text
    assert [file.name for file in path.parent.iterdir()] == ["summary.json"]


@pytest.mark.parametrize("text", [None, "{", "[]", '{"schema_version": 2}', '{"schema_version": 1}'])
def test_a_broken_summary_is_one_sentence(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "summary.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RunError, match=r"summary\.json"):
        read_summary(path)


def test_radii_in_the_summary_are_never_rounded_up() -> None:
    rows = study()
    for name, value in summarise(rows, RADII)[0].average_certified_radius.items():
        mine = [row for row in rows if row.defence == name and row.sigma == 0.25]
        exact = sum(row.radius for row in mine if row.correct) / len(mine)
        assert exact - 1.1e-6 <= value <= exact
        assert len(str(value).split(".")[1]) <= 6
