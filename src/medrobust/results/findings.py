"""Images with several findings: all answers of an image as one, and each finding by itself.

Each finding of an image has its own certificate at alpha divided by their number, so that with probability 1 - alpha
all certificates of an image hold together (Bonferroni).
"""

from collections.abc import Sequence
from dataclasses import replace

from medrobust.results.rows.certified import CertifiedRow
from medrobust.results.shares import holds_at, share_of
from medrobust.results.summary import AnswerShares, FindingShares


def finding_names(rows: Sequence[CertifiedRow]) -> list[str]:
    """The findings in the order first seen; none where an image has one class."""
    return list(dict.fromkeys(row.finding for row in rows if row.finding is not None))


def joint(rows: Sequence[CertifiedRow]) -> list[CertifiedRow]:
    """One row for all findings of an image under a defence; rows without findings as they are.

    Labels and answers are sums of 2^place over the findings that are there. It abstains where one of them does, and
    its radius is the smallest; counts are those of the finding that decides. Images of which a finding is missing are
    left out.
    """
    names = finding_names(rows)
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


def by_finding(rows: Sequence[CertifiedRow], radii: Sequence[float]) -> dict[str, dict[str, FindingShares]]:
    """Sensitivity and specificity by defence and finding: present findings seen, absent findings denied.

    Both clean and certified at each radius, each with its exact 95 % interval.
    """
    found: dict[str, dict[str, FindingShares]] = {}
    for defence in dict.fromkeys(row.defence for row in rows):
        for name in finding_names(rows):
            members = [row for row in rows if (row.defence, row.finding) == (defence, name)]
            found.setdefault(defence, {})[name] = _shares(members, radii)
    return found


def _shares(rows: Sequence[CertifiedRow], radii: Sequence[float]) -> FindingShares:
    there = [row for row in rows if row.label]
    return FindingShares(
        there=len(there),
        images=len(rows),
        abstained=share_of(row.prediction is None for row in rows),
        sensitivity=_answers(there, radii),
        specificity=_answers([row for row in rows if not row.label], radii),
    )


def _answers(rows: Sequence[CertifiedRow], radii: Sequence[float]) -> AnswerShares | None:
    if not rows:
        return None
    return AnswerShares(
        clean=share_of(row.clean == row.label for row in rows),
        certified={float(radius): share_of(holds_at(row, radius) for row in rows) for radius in radii},
    )
