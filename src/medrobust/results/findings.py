"""Images with several findings: all answers of an image as one, and each finding by itself.

Each finding of an image has its own certificate at alpha divided by their number, so that with probability 1 - alpha
all certificates of an image hold together (Bonferroni).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from medrobust.results.rows.certified import CertifiedRow
from medrobust.results.shares import certified, number_key, share_of

Shares = dict[str, Any]  # of one finding under one defence, as in summary.json


def names_of(rows: Sequence[CertifiedRow]) -> list[str]:
    """The findings in the order first seen; none where an image has one class."""
    return list(dict.fromkeys(row.finding for row in rows if row.finding is not None))


def joint(rows: Sequence[CertifiedRow]) -> list[CertifiedRow]:
    """One row for all findings of an image under a defence; rows without findings as they are.

    Labels and answers are sums of 2^place over the findings that are there. It abstains where one of them does, and
    its radius is the smallest; counts are those of the finding that decides. Images of which a finding is missing are
    left out.
    """
    names = names_of(rows)
    if not names:
        return list(rows)
    groups: dict[tuple[str, float, str], dict[str | None, CertifiedRow]] = {}
    for row in rows:
        groups.setdefault((row.id, row.sigma, row.defence), {})[row.finding] = row
    return [_together([group[name] for name in names]) for group in groups.values() if len(group) == len(names)]


def _together(rows: Sequence[CertifiedRow]) -> CertifiedRow:
    deciding = min(rows, key=lambda row: (row.prediction is not None, row.radius, row.votes / max(1, row.trials)))
    label, clean, answer = (_sum([getattr(row, name) for row in rows]) for name in ("label", "clean", "prediction"))
    return replace(
        deciding, finding=None, label=label or 0, clean=clean, selected=answer, prediction=answer,
        drawn=max(row.drawn for row in rows),
    )  # fmt: skip


def _sum(answers: Sequence[int | None]) -> int | None:
    if any(answer is None for answer in answers):
        return None
    return sum((answer or 0) << place for place, answer in enumerate(answers))


def by_finding(rows: Sequence[CertifiedRow], radii: Sequence[float]) -> dict[str, dict[str, Shares]]:
    """Defence, finding: how often it is seen where it is there (sensitivity) and denied where it is not (specificity).

    Both clean and certified at each radius, each with its exact 95 % interval; None where no image is of that kind.
    """
    found: dict[str, dict[str, Shares]] = {}
    for defence in dict.fromkeys(row.defence for row in rows):
        for name in names_of(rows):
            members = [row for row in rows if (row.defence, row.finding) == (defence, name)]
            found.setdefault(defence, {})[name] = _shares(members, radii)
    return found


def _shares(rows: Sequence[CertifiedRow], radii: Sequence[float]) -> Shares:
    kinds = {"sensitivity": [row for row in rows if row.label], "specificity": [row for row in rows if not row.label]}
    return {
        "there": len(kinds["sensitivity"]),
        "images": len(rows),
        "abstained": share_of(row.prediction is None for row in rows),
    } | {
        kind: {
            "clean": share_of(row.clean == row.label for row in members),
            "certified": {number_key(radius): share_of(certified(row, radius) for row in members) for radius in radii},
        }
        if members
        else None
        for kind, members in kinds.items()
    }
