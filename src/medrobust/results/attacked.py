"""Attacked rows summed up: what each defence kept at each eps, and which attacks broke the rest."""

from collections.abc import Sequence

from medrobust.errors import RunError
from medrobust.results.rows.attacked import AttackedRow
from medrobust.results.shares import share_of
from medrobust.results.summary import AttackedSummary


def summarise_attack(rows: Sequence[AttackedRow]) -> AttackedSummary:
    """Accuracy under attack at each eps, with the clean accuracy of the same images; titles and flags are not in rows.

    Raises RunError where rows of several attacks are mixed.
    """
    if len({(row.attack, row.norm, row.seed) for row in rows}) > 1:
        raise RunError("rows of several attacks are mixed; attack each into its own --out")
    first, levels = rows[0], sorted({row.eps for row in rows})
    groups: dict[str, list[AttackedRow]] = {}
    for row in rows:
        groups.setdefault(row.defence, []).append(row)
    clean = {name: [row for row in members if row.eps == levels[0]] for name, members in groups.items()}
    return AttackedSummary(
        name=first.attack,
        norm=first.norm,
        eps=tuple(levels),
        standard=all(row.standard for row in rows),
        images=len({row.id for row in rows}),
        defences=tuple(groups),
        scope={name: members[0].scope for name, members in groups.items()},
        sigma=next((row.sigma for row in rows if row.sigma is not None), None),
        clean_accuracy={name: share_of(row.broken_by != "clean" for row in members) for name, members in clean.items()},
        broken_by={
            name: {title: _counts(part) for title, part in _by_title(members)} for name, members in groups.items()
        },
        robust_accuracy={
            name: {title: share_of(row.broken_by is None for row in part) for title, part in _by_title(members)}
            for name, members in groups.items()
        },
    )


def _by_title(rows: Sequence[AttackedRow]) -> list[tuple[str, list[AttackedRow]]]:
    """The rows of each eps, the smallest first."""
    groups: dict[float, list[AttackedRow]] = {}
    for row in sorted(rows, key=lambda row: row.eps):
        groups.setdefault(row.eps, []).append(row)
    return [(members[0].title, members) for members in groups.values()]


def _counts(rows: Sequence[AttackedRow]) -> dict[str, int]:
    found = [row.broken_by for row in rows if row.broken_by not in (None, "clean")]
    return {str(name): found.count(name) for name in dict.fromkeys(found)}
