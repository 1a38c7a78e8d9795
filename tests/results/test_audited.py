"""Rows of an audit: read back as written, and summed up to audit.json, against counts by hand."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from specimens import study

from medrobust.results.audit_summary import AuditSummary
from medrobust.results.audited import summarise_audit
from medrobust.results.rows.audited import AUDITED, AttackTried, AuditRow, BorderTried, Redrawn
from medrobust.results.sections.audited import audit_markdown, check_lines
from medrobust.results.values import from_json
from medrobust.smoothing.audit.chance import LEVEL, too_many

CERTIFICATES = study((0.25,))
NAMES = ("zero-shot", "few-shot", "tuner")
SETTINGS: dict[str, int | bool] = {"attacks": 2, "steps": 3, "draws": 8, "seed": 5, "records_only": False}


def row(check: Any, found: Any, image: str = "image-00", **more: Any) -> AuditRow:
    given = {"defence": "zero-shot", "scope": "model", "sigma": 0.25} | more
    return AuditRow(check=check, id=image, found=found, **given)


def tried(votes: int, retuned: Any = None, broken: bool = False) -> AttackTried:
    return AttackTried(distance=0.125, votes=votes, trials=400, broken=broken, retuned=retuned)


def again(contradicted: int = 0, differs: bool = False) -> Redrawn:
    return Redrawn(differs=differs, redrawn=3, contradicted=contradicted, alpha=0.001)


TUNER = {"defence": "tuner", "scope": "tuned on input"}
ROWS = [
    *(row("record", None, one.id, defence=one.defence, scope=one.scope) for one in CERTIFICATES),
    row("attack", tried(300)),
    row("attack", tried(100, broken=True), "image-01", sentences=("class 1 has only 100 of 400 votes",)),
    row("attack", tried(390, "same"), **TUNER),
    row("attack", tried(380, "changed"), "image-02", **TUNER),
    row("redraw", again()),
    row("redraw", again(1), **TUNER),
    row("redraw", again(0, differs=True), "image-03", sentences=("drawn again it is another",)),
    row("redraw", again(2), "image-03", **TUNER),
    row("border", BorderTried(tries=0, certified=0, allowed=0.0, alpha=0.05), to="image-09"),
    row("border", BorderTried(tries=20, certified=3, allowed=0.125, alpha=0.05), "image-02", to="image-05"),
    row("border", BorderTried(tries=20, certified=1, allowed=0.0625, alpha=0.05), "image-04", to="image-05"),
]
BROKEN = ROWS[len(CERTIFICATES) + 1].key


def whole(rows: list[AuditRow] = ROWS, **more: Any) -> AuditSummary:
    pictures = {BROKEN: {"clean": "AA==", "attacked": "AQ=="}}
    return summarise_audit(rows, CERTIFICATES, SETTINGS | more, complete=True, pictures=pictures)


def test_a_row_reads_back_as_it_was_written() -> None:
    for one in ROWS:
        line = AUDITED.to_line(one)
        assert AUDITED.from_line(line) == one
        assert AUDITED.to_line(AUDITED.from_line(line)) == line
    assert len({one.key for one in ROWS}) == len(ROWS)
    assert str(ROWS[-1].key) == "border of image-04 to image-05 at sigma 0.25 under zero-shot"


@pytest.mark.parametrize(("change", "told"), [
    ({"found": None}, "a attack holds numbers of another check"), ({"check": "redraw"}, "numbers of another check"),
    ({"to": "b"}, "has `to` b"), ({"sigma": 0.0}, "sigma is 0"), ({"found": tried(401)}, "401 votes in 400"),
    ({"sentences": ("x",)}, "if and only if it broke"), ({"check": "border", "to": "b"}, "numbers of another check"),
])  # fmt: skip
def test_a_row_that_contradicts_itself_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(row("attack", tried(300)), **change)


@pytest.mark.parametrize(("change", "told"), [
    ({"check": "other"}, "check is 'other'"), ({"found": {"votes": 1}}, "found"), ({"sentences": "x"}, "sentences is"),
])  # fmt: skip
def test_a_line_that_is_no_row_says_where(change: dict[str, Any], told: str) -> None:
    line = json.dumps(json.loads(AUDITED.to_line(row("attack", tried(300)))) | change)
    with pytest.raises(ValueError, match=told):
        AUDITED.from_line(line)


def test_a_whole_audit_is_summed_up() -> None:
    found = whole().to_json()
    assert list(found) == [
        "schema_version", "complete", "rows", "settings", "scopes", "records", "attacks", "redraws", "borders",
    ]  # fmt: skip
    assert (found["schema_version"], found["complete"], found["rows"], found["settings"]) == (1, True, 36, SETTINGS)
    assert found["scopes"] == {"zero-shot": "model", "few-shot": "model", "tuner": "tuned on input"}
    assert found["records"] == {"tested": 36, "findings": []}
    attacks = found["attacks"]
    assert attacks["tested"] == 4
    assert attacks["findings"] == [{
        "defence": "zero-shot", "id": "image-01", "sigma": 0.25, "sentence": "class 1 has only 100 of 400 votes",
        "pictures": {"clean": "AA==", "attacked": "AQ=="},
    }]  # fmt: skip
    assert attacks["defences"]["zero-shot"] == {
        "scope": "model", "attempts": 2, "broken": 1, "lowest_share": 0.25, "retuned": None,
    }  # fmt: skip
    tuner = attacks["defences"]["tuner"]
    assert tuner["lowest_share"] == 0.95
    assert {name: (share["hits"], share["total"]) for name, share in tuner["retuned"].items()} == {
        "same": (1, 2), "changed": (1, 2), "abstains": (0, 2),
    }  # fmt: skip
    redraws = found["redraws"]
    assert redraws["tested"] == 2
    assert redraws["defences"] == {
        "zero-shot": {"replayed": 2, "differ": 1, "redrawn": 6, "contradicted": 0},
        "few-shot": {"replayed": 0, "differ": 0, "redrawn": 0, "contradicted": 0},
        "tuner": {"replayed": 2, "differ": 0, "redrawn": 6, "contradicted": 3},
    }
    assert binom.sf(2, 6, 0.001) < LEVEL / 3  # three of six, where one in a thousand is allowed
    assert [(one["defence"], one["id"]) for one in redraws["findings"]] == [("zero-shot", "image-03"), ("tuner", None)]
    assert redraws["findings"][1]["sentence"].startswith("3 of 6 certificates claim a radius that a large count")
    assert "pictures" not in redraws["findings"][0]
    assert found["borders"] == {"tested": 2, "findings": [], "defences": {
        "zero-shot": {"images": 2, "tries": 40, "certified": 4, "allowed": 3.75, "alpha": 0.05},
    }}  # fmt: skip


def test_audit_json_reads_back() -> None:
    audit = whole()
    read = from_json(AuditSummary, json.loads(audit.to_text()))
    assert read == audit
    assert read.to_text() == audit.to_text()


@pytest.mark.parametrize(("rows", "blocks"), [
    ([], []), (ROWS[:5], ["records"]), (ROWS[:37], ["records", "attacks"]),
    (ROWS[:41], ["records", "attacks", "redraws"]), (ROWS[-1:], ["records", "attacks", "redraws", "borders"]),
])  # fmt: skip
def test_an_audit_is_told_as_far_as_it_has_come(rows: list[AuditRow], blocks: list[str]) -> None:
    audit = summarise_audit(rows, CERTIFICATES, SETTINGS, complete=False)
    assert [name for name in ("records", "attacks", "redraws", "borders") if name in audit.to_json()] == blocks
    assert "The audit was interrupted" in audit_markdown(audit)


def test_records_alone_have_no_other_block() -> None:
    audit = whole(ROWS[: len(CERTIFICATES)], records_only=True)
    assert list(audit.to_json())[5:] == ["records"]
    assert "Records alone were checked" in audit_markdown(audit)


def test_nothing_attacked_is_not_the_same_as_not_begun() -> None:
    audit = whole(ROWS[: len(CERTIFICATES)])
    assert audit.to_json()["attacks"] == {"tested": 0, "findings": [], "defences": {}}
    assert set(audit.to_json()["redraws"]["defences"]) == set(NAMES)


def test_the_table_has_a_line_a_check_and_defence() -> None:
    lines = [(one.check, one.defence, one.tested, one.failed) for one in check_lines(whole())]
    assert lines == [
        ("radius follows from its record", "all", 36, 0),
        ("SmoothAdv inside the radius", "zero-shot", 2, 1),
        ("SmoothAdv inside the radius, as tuned", "tuner", 2, 0),
        ("the same points, tuned again there", "tuner", 2, None),
        ("drawn again, own seed", "zero-shot", 2, 1), ("radius against a large count", "zero-shot", 6, 0),
        ("drawn again, own seed", "few-shot", 0, 0), ("radius against a large count", "few-shot", 0, 0),
        ("drawn again, own seed", "tuner", 2, 0), ("radius against a large count", "tuner", 6, 1),
        ("stated alpha at the border of two classes", "zero-shot", 40, 0),
    ]  # fmt: skip
    text = audit_markdown(whole())
    assert "3 findings: see below." in text
    assert "* zero-shot, image-01 at sigma 0.25: class 1 has only 100 of 400 votes" in text
    assert "* tuner: 3 of 6 certificates" in text


@given(st.integers(0, 20), st.integers(1, 40), st.floats(1e-4, 0.2))
def test_chance_is_the_binomials(found: int, more: int, alpha: float) -> None:
    tested = found + more
    tail = float(binom.pmf(range(found, tested + 1), tested, alpha).sum())
    if abs(tail - LEVEL) > 1e-9:
        assert too_many(found, tested, alpha) == (found > 0 and tail < LEVEL)
