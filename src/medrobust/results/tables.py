"""Rows to tables: accuracy, certified accuracy, abstention and radii, each share with its exact 95 % interval.

An image counts as certified at radius r where its certified answer is right and its recorded radius is at least r. The
recorded radius is rounded down from a bound that is strictly larger, or is a radius at which the test was rejected, so
this is the R > r of Cohen et al. (ICML 2019); at r = 0 it means right and not abstaining. Abstentions stay in every
denominator.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from scipy.stats import binomtest

from medrobust.errors import RunError
from medrobust.results.findings import by_finding, finding_names, joint
from medrobust.results.rows.certified import CertifiedRow
from medrobust.results.shares import holds_at, share_of
from medrobust.results.summary import CertifiedSummary
from medrobust.smoothing import bounds
from medrobust.smoothing.sequential import largest_certifiable, record_of

Groups = dict[float, dict[str, list[CertifiedRow]]]  # sigma, defence -> rows, both in the order first seen


class PairedGain(NamedTuple):
    """Two defences on the same images: points of certified accuracy gained, and McNemar's exact two-sided p-value."""

    points: float
    p_value: float


def grouped(rows: Iterable[CertifiedRow]) -> Groups:
    """Rows by sigma and defence; raises RunError where a group mixes settings or holds an image twice."""
    groups: Groups = {}
    for row in rows:
        groups.setdefault(row.sigma, {}).setdefault(row.name, []).append(row)
    for sigma, defences in groups.items():
        for defence, members in defences.items():
            _check_alike(defence, sigma, members)
    return groups


def _check_alike(defence: str, sigma: float, rows: Sequence[CertifiedRow]) -> None:
    settings: dict[str, set[Any]] = {
        "alpha": {row.alpha for row in rows},
        "scope": {row.scope for row in rows},
        "stopping": {row.stopping for row in rows},
        "selection": {row.selection for row in rows},
        "seed": {row.seed for row in rows},
        "budget": {row.budget for row in rows},
        "look": {row.look for row in rows},
        "grid": {row.grid for row in rows},
    }
    for name, values in settings.items():
        if len(values) > 1:
            told = " and ".join(str(value) for value in sorted(values, key=str)[:2])
            raise RunError(
                f"{defence} at sigma {sigma:g} mixes rows with {name} {told}; certify each into its own --out"
            )
    if len({row.id for row in rows}) < len(rows):
        raise RunError(f"{defence} at sigma {sigma:g} holds an image twice; certify each run into its own --out")


def summarise(rows: Sequence[CertifiedRow], radii: Sequence[float]) -> tuple[CertifiedSummary, ...]:
    """One summary a noise level, in the order first seen.

    Of images with several findings it tells where all answers are right, certified or given, and under `findings` each
    by itself. Raises RunError where there are no rows or a table would mix settings.
    """
    groups, names = grouped(rows), finding_names(rows)
    if names:
        groups = grouped(joint(rows))
    if not groups:
        raise RunError("there are no certificates to tell of; run `medrobust certify` first")
    if not all(radius >= 0 and math.isfinite(radius) for radius in radii):
        raise RunError(f"radii are {list(radii)}, must be finite and not negative")
    grid = sorted({float(radius) for radius in radii})
    levels = tuple(_level(sigma, defences, grid) for sigma, defences in groups.items())
    return tuple(_with_findings(level, rows, len(names)) for level in levels) if names else levels


def _with_findings(level: CertifiedSummary, rows: Sequence[CertifiedRow], findings: int) -> CertifiedSummary:
    found = by_finding([row for row in rows if row.sigma == level.sigma], level.radii)
    return replace(
        level, findings=found, expected_false_certificates=level.expected_false_certificates * findings
    )  # fmt: skip


def _level(sigma: float, defences: Mapping[str, Sequence[CertifiedRow]], radii: Sequence[float]) -> CertifiedSummary:
    every = [row for rows in defences.values() for row in rows]
    images = len({row.id for row in every})
    return CertifiedSummary(
        sigma=sigma,
        radii=tuple(radii),
        images=images,
        defences=tuple(defences),
        certified_accuracy={
            name: {radius: share_of(holds_at(row, radius) for row in rows) for radius in radii}
            for name, rows in defences.items()
        },
        clean_accuracy={name: share_of(row.clean == row.label for row in rows) for name, rows in defences.items()},
        abstained={name: share_of(row.prediction is None for row in rows) for name, rows in defences.items()},
        certified_wrong={
            name: share_of(row.prediction is not None and not row.correct for row in rows)
            for name, rows in defences.items()
        },
        average_certified_radius={
            name: bounds.round_down(math.fsum(row.radius for row in rows if row.correct) / len(rows))
            for name, rows in defences.items()
        },
        mean_certified_radius={
            name: _mean_down([row.radius for row in rows if row.correct]) for name, rows in defences.items()
        },
        mean_samples={name: sum(row.drawn for row in rows) / len(rows) for name, rows in defences.items()},
        scope={name: rows[0].scope for name, rows in defences.items()},
        largest_radius=_largest_radius(every),
        expected_false_certificates=max(row.alpha for row in every) * images,
    )


def _mean_down(radii: Sequence[float]) -> float | None:
    return bounds.round_down(math.fsum(radii) / len(radii)) if radii else None


def _largest_radius(rows: Sequence[CertifiedRow]) -> float:
    """The radius that no row could exceed."""
    settings = {tuple(record_of(row).values()): row for row in rows}
    return max(largest_certifiable(**record_of(row)) for row in settings.values())


def paired_gain(rows: Sequence[CertifiedRow], defence: str, baseline: str, sigma: float, radius: float) -> PairedGain:
    """Certified accuracy of `defence` less that of `baseline`, on the images both have certified at `sigma`.

    Raises RunError where they share no image. References: McNemar, Psychometrika 12 (1947); exact binomial form.
    """
    groups = grouped(row for row in rows if row.sigma == sigma)
    there = {row.id: holds_at(row, radius) for row in groups.get(sigma, {}).get(defence, [])}
    base = {row.id: holds_at(row, radius) for row in groups.get(sigma, {}).get(baseline, [])}
    common = there.keys() & base.keys()
    if not common:
        raise RunError(f"{defence} and {baseline} have no image in common at sigma {sigma:g}")
    won = sum(there[name] and not base[name] for name in common)
    lost = sum(base[name] and not there[name] for name in common)
    p_value = float(binomtest(won, won + lost, 0.5).pvalue) if won + lost else 1.0
    return PairedGain(100 * (won - lost) / len(common), p_value)
