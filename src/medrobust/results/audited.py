"""Checks of an audit summed up, whole or as far as an audit has come."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import TypeVar

from medrobust.results.audit_summary import (
    RECORDS_ONLY,
    SCHEMA_VERSION,
    AttacksChecked,
    AttackTally,
    AuditFinding,
    AuditSummary,
    BordersChecked,
    BorderTally,
    Pictures,
    RecordsChecked,
    RedrawsChecked,
    RedrawTally,
    RetunedShares,
)
from medrobust.results.rows.audited import AttackTried, AuditKey, AuditRow, BorderTried, Check, Redrawn
from medrobust.results.rows.certified import CertifiedRow
from medrobust.results.shares import share
from medrobust.smoothing.audit.chance import LEVEL, too_many

ORDER: tuple[Check, ...] = ("record", "attack", "redraw", "border")
T = TypeVar("T")


def summarise_audit(
    rows: Sequence[AuditRow],
    certificates: Sequence[CertifiedRow],
    settings: Mapping[str, int | bool],
    *,
    complete: bool,
    pictures: Mapping[AuditKey, Pictures] | None = None,
) -> AuditSummary:
    """Sum up the rows of an audit of these certificates, in the order of its plan.

    `complete` says that all checks were made; else a check counts as begun where it or a later one has rows.
    `pictures` are those of broken certificates.
    """
    by_check = [[row for row in rows if row.check == check] for check in ORDER]
    begun = max((place for place, found in enumerate(by_check, start=1) if found), default=0)
    if complete:
        begun = 1 if settings.get(RECORDS_ONLY) else len(ORDER)
    records, attacks, redraws, borders = (found if place < begun else None for place, found in enumerate(by_check))
    defences = tuple(dict.fromkeys(row.name for row in certificates))
    return AuditSummary(
        schema_version=SCHEMA_VERSION,
        complete=complete,
        rows=len(certificates),
        settings=dict(settings),
        scopes={row.name: row.scope for row in certificates},
        records=None if records is None else _records(records),
        attacks=None if attacks is None else _attacks(attacks, pictures or {}),
        redraws=None if redraws is None else _redraws(redraws, defences),
        borders=None if borders is None else _borders(borders),
    )


def _records(rows: Sequence[AuditRow]) -> RecordsChecked:
    return RecordsChecked(len(rows), _findings(rows, {}))


def _attacks(rows: Sequence[AuditRow], pictures: Mapping[AuditKey, Pictures]) -> AttacksChecked:
    tallies = {}
    for name in dict.fromkeys(row.defence for row in rows):
        members = [row for row in rows if row.defence == name]
        tried = _numbers(members, AttackTried)
        answers = [one.retuned for one in tried if one.retuned is not None]
        tallies[name] = AttackTally(
            scope=members[0].scope,
            attempts=len(tried),
            broken=sum(one.broken for one in tried),
            lowest_share=min(one.votes / one.trials for one in tried),
            retuned=RetunedShares(
                *(share(answers.count(said), len(answers)) for said in ("same", "changed", "abstains"))
            ) if answers else None,
        )  # fmt: skip
    return AttacksChecked(len(rows), _findings(rows, pictures), tallies)


def _redraws(rows: Sequence[AuditRow], defences: Sequence[str]) -> RedrawsChecked:
    tallies = {}
    for name in defences:
        found = _numbers([row for row in rows if row.defence == name], Redrawn)
        tallies[name] = RedrawTally(
            replayed=len(found),
            differ=sum(one.differs for one in found),
            redrawn=sum(one.redrawn for one in found),
            contradicted=sum(one.contradicted for one in found),
        )
    alpha = max((one.alpha for one in _numbers(rows, Redrawn)), default=0.0)
    images = {(row.id, row.sigma) for row in rows}
    return RedrawsChecked(len(images), (*_findings(rows, {}), *_too_many(tallies, alpha)), tallies)


def _too_many(tallies: Mapping[str, RedrawTally], alpha: float) -> list[AuditFinding]:
    return [
        AuditFinding(defence, None, None, (
            f"{tally.contradicted} of {tally.redrawn} certificates claim a radius that a large count of fresh noise "
            f"contradicts; alpha = {alpha:g} does not explain so many"
        ))
        for defence, tally in tallies.items()
        if too_many(tally.contradicted, tally.redrawn, alpha, LEVEL / len(tallies))
    ]  # fmt: skip


def _borders(rows: Sequence[AuditRow]) -> BordersChecked:
    there = [row for row in rows if isinstance(row.found, BorderTried) and row.found.tries]
    tallies = {}
    for name in dict.fromkeys(row.defence for row in there):
        tried = _numbers([row for row in there if row.defence == name], BorderTried)
        tallies[name] = BorderTally(
            images=len(tried),
            tries=sum(one.tries for one in tried),
            certified=sum(one.certified for one in tried),
            allowed=reduce(add, (one.tries * one.allowed for one in tried)),  # `sum` rounds otherwise from Python 3.12
            alpha=tried[0].alpha,
        )
    return BordersChecked(len(there), _findings(there, {}), tallies)


def _findings(rows: Sequence[AuditRow], pictures: Mapping[AuditKey, Pictures]) -> tuple[AuditFinding, ...]:
    return tuple(
        AuditFinding(row.defence, row.id, row.sigma, sentence, pictures.get(row.key, {}))
        for row in rows
        for sentence in row.sentences
    )


def _numbers(rows: Sequence[AuditRow], kind: type[T]) -> list[T]:
    return [row.found for row in rows if isinstance(row.found, kind)]
