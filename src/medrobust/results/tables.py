"""Rows to tables: accuracy, certified accuracy, abstention and radii, each share with its exact 95 % interval.

An image counts as certified at radius r where its certified answer is right and its recorded radius is at least r. The
recorded radius is rounded down from a bound that is strictly larger, or is a radius at which the test was rejected, so
this is the R > r of Cohen et al. (ICML 2019); at r = 0 it means right and not abstaining. Abstentions stay in every
denominator.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy.stats import binomtest

from medrobust.errors import RunError
from medrobust.files import replace_text
from medrobust.results.findings import by_finding, joint, names_of
from medrobust.results.rows.certified import CertifiedRow
from medrobust.results.shares import certified as certified
from medrobust.results.shares import number_key as number_key
from medrobust.results.shares import share as share
from medrobust.results.shares import share_of as share_of
from medrobust.smoothing import bounds
from medrobust.smoothing.sequential import largest_radius, record_of

SCHEMA_VERSION = 1

Summary = dict[str, Any]  # as in summary.json
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


def summarise(rows: Sequence[CertifiedRow], radii: Sequence[float]) -> Summary:
    """What summary.json holds: one block a sigma under `by_sigma`, that of the first sigma also at the top.

    Keys of radii and sigmas are written by `number_key`. `mean_samples` counts the draws of the estimate, without
    those of the selection. Of images with several findings a block tells where all answers are right, certified or
    given, and under `findings` each by itself. Raises RunError where there are no rows or a table would mix settings.
    """
    groups, names = grouped(rows), names_of(rows)
    if names:
        groups = grouped(joint(rows))
    if not groups:
        raise RunError("there are no certificates to tell of; run `medrobust certify` first")
    if not all(radius >= 0 and math.isfinite(radius) for radius in radii):
        raise RunError(f"radii are {list(radii)}, must be finite and not negative")
    grid = sorted({float(radius) for radius in radii})
    blocks = {number_key(sigma): _block(sigma, defences, grid) for sigma, defences in groups.items()}
    for sigma, block in zip(groups, blocks.values(), strict=True) if names else ():
        block["findings"] = by_finding([row for row in rows if row.sigma == sigma], grid)
        block["expected_false_certificates"] *= len(names)
    first = next(iter(blocks.values()))
    return {"schema_version": SCHEMA_VERSION, **first, "sigmas": list(groups), "by_sigma": blocks}


def _block(sigma: float, defences: dict[str, list[CertifiedRow]], radii: Sequence[float]) -> Summary:
    every = [row for rows in defences.values() for row in rows]
    images = len({row.id for row in every})
    return {
        "sigma": sigma,
        "radii": list(radii),
        "images": images,
        "defences": list(defences),
        "certified_accuracy": {
            name: {number_key(radius): share_of(certified(row, radius) for row in rows) for radius in radii}
            for name, rows in defences.items()
        },
        "clean_accuracy": {name: share_of(row.clean == row.label for row in rows) for name, rows in defences.items()},
        "robust_accuracy": {},
        "abstained": {name: share_of(row.prediction is None for row in rows) for name, rows in defences.items()},
        "certified_wrong": {
            name: share_of(row.prediction is not None and not row.correct for row in rows)
            for name, rows in defences.items()
        },
        "average_certified_radius": {
            name: bounds.round_down(math.fsum(row.radius for row in rows if row.correct) / len(rows))
            for name, rows in defences.items()
        },
        "mean_certified_radius": {
            name: _mean_down([row.radius for row in rows if row.correct]) for name, rows in defences.items()
        },
        "mean_samples": {name: sum(row.drawn for row in rows) / len(rows) for name, rows in defences.items()},
        "scope": {name: rows[0].scope for name, rows in defences.items()},
        "largest_radius": _largest_radius(every),
        "expected_false_certificates": max(row.alpha for row in every) * images,
    }


def _mean_down(radii: Sequence[float]) -> float | None:
    return bounds.round_down(math.fsum(radii) / len(radii)) if radii else None


def _largest_radius(rows: Sequence[CertifiedRow]) -> float:
    """The radius nothing in these rows could exceed."""
    settings = {tuple(record_of(row).values()): row for row in rows}
    return max(largest_radius(**record_of(row)) for row in settings.values())


def middle_radius(block: Summary) -> float:
    """The radius to speak of where there is room for one: the largest not above sigma, else the smallest above 0.

    It does not depend on the results. 0.0 where no radius above 0 was asked for or could be certified.
    """
    end = block["largest_radius"]
    above = [radius for radius in block["radii"] if 0 < radius <= end]
    return max((radius for radius in above if radius <= block["sigma"]), default=min(above, default=0.0))


def paired_gain(rows: Sequence[CertifiedRow], defence: str, baseline: str, sigma: float, radius: float) -> PairedGain:
    """Certified accuracy of `defence` less that of `baseline`, on the images both have certified at `sigma`.

    Raises RunError where they share no image. References: McNemar, Psychometrika 12 (1947); exact binomial form.
    """
    groups = grouped(row for row in rows if row.sigma == sigma)
    there = {row.id: certified(row, radius) for row in groups.get(sigma, {}).get(defence, [])}
    base = {row.id: certified(row, radius) for row in groups.get(sigma, {}).get(baseline, [])}
    common = there.keys() & base.keys()
    if not common:
        raise RunError(f"{defence} and {baseline} have no image in common at sigma {sigma:g}")
    won = sum(there[name] and not base[name] for name in common)
    lost = sum(base[name] and not there[name] for name in common)
    p_value = float(binomtest(won, won + lost, 0.5).pvalue) if won + lost else 1.0
    return PairedGain(100 * (won - lost) / len(common), p_value)


def write_summary(path: Path, summary: Summary) -> None:
    """Write summary.json whole or not at all: sorted keys, a newline at its end. Raises RunError."""
    replace_text(path, json.dumps(summary, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_summary(path: Path) -> Summary:
    """A summary written by `write_summary`; raises RunError where it is missing, broken or of another version."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise RunError(f"{path} cannot be read ({problem}); run `medrobust report` on the folder again") from problem
    version = summary.get("schema_version") if isinstance(summary, dict) else None
    if version != SCHEMA_VERSION:
        raise RunError(f"{path} has schema_version {version}, this medrobust reads {SCHEMA_VERSION}")
    return dict(summary)
