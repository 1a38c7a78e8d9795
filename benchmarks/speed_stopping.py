"""Draws an image and certified share of every stopping rule, exactly, on a published distribution of pA."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from scipy.stats import binom, norm
from speed_record import publish, rows_table

from medrobust.smoothing import sequential
from medrobust.smoothing.sequential import Boundaries, Stopping, boundaries, course

PUBLISHED = Path(__file__).with_name("published_radii.yaml")
ABSTAINED = 0.4  # pA of the images that abstained: the logs do not say it
ALPHA, BUDGET, LOOK = 0.001, 10_000, 32
RULES: tuple[Stopping, ...] = ("fixed", "spending", "anytime")
GRIDS = {"0.5": (0.5,), "1": (1.0,), "2": (2.0,), "curve": (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)}  # in sigma
TARGETS = {"0.5": 711, "1": 453, "2": 710, "curve": 4700}
STAGES = (100, 1_000, 10_000)


def stopping(arguments: argparse.Namespace) -> None:
    """Exact, by dynamic programming; two minutes or so."""
    settings = {"alpha": ALPHA, "budget": BUDGET, "look": LOOK, "abstained_pA": ABSTAINED, "images": 500}
    results = [_result(grid, rule) for grid in arguments.grids for rule in RULES]
    results += [_staged(grid) for grid in arguments.grids if grid != "curve"]
    publish("stopping", {**settings, "results": results}, _table(results))


def published() -> np.ndarray:
    """pA of the 500 images: Phi(radius / sigma), and a guess for those that abstained."""
    found = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    known = norm.cdf(np.array(found["radii"]) / found["sigma"])
    return np.append(known, np.full(found["images"] - len(known), ABSTAINED))


def rule_of(stopping: Stopping, radii: tuple[float, ...], *, sigma: float, budget: int = BUDGET) -> Boundaries:
    """The library's own tables."""
    return boundaries(stopping, radii, sigma=sigma, alpha=ALPHA, budget=budget, look=LOOK)


def _result(grid: str, stopping: Stopping) -> dict[str, Any]:
    rule, radii = rule_of(stopping, GRIDS[grid], sigma=1.0), GRIDS[grid]
    values, images = np.unique(published(), return_counts=True)
    courses = [curve_course(rule, p) for p in values.tolist()]
    for number in (0, len(values) // 2):  # the library's own, which knows the smallest radius only
        if not np.allclose(course(rule, float(values[number])), courses[number][:2], rtol=1e-9, atol=1e-9):
            raise RuntimeError(f"the courses at pA = {values[number]} differ; one of them is wrong")
    certified = np.average([one.shares for one in courses], axis=0, weights=images)
    return {
        "grid": grid,
        "rule": stopping,
        "draws": float(np.average([one.draws for one in courses], weights=images)),
        "radii_in_sigma": radii,
        "certified_percent": (100 * certified).tolist(),
    }


class CurveCourse(NamedTuple):
    """As `sequential.Course`, and the chance to certify each radius of the grid."""

    certified: float
    draws: float
    shares: np.ndarray


def curve_course(rule: Boundaries, p: float) -> CurveCourse:
    """`sequential.course` for every radius, and faster: chances below 1e-18 at either end are dropped."""
    alive = {0: (0, np.ones(1))}  # radii certified so far -> the smallest count, chances of it and those above
    shares, draws, before = np.zeros(rule.accept.shape[1]), 0.0, 0
    for look, trials in enumerate(rule.looks.tolist()):
        draws += (trials - before) * sum(float(part.sum()) for _, part in alive.values())
        step = binom.pmf(np.arange(trials - before + 1), trials - before, p)
        moved: dict[int, list[tuple[int, np.ndarray]]] = {}
        for reached, (low, part) in alive.items():
            chances = np.convolve(part, step)
            counts = low + np.arange(len(chances))
            now = np.maximum(reached, np.searchsorted(rule.accept[look], counts, side="right"))
            for level in np.unique(now).tolist():
                here = now == level
                shares[reached:level] += chances[here].sum()
                going = here & (counts > rule.refuse[look, level]) if level < len(shares) else here & False
                if (chances[going] > 1e-18).any():
                    rows = np.flatnonzero(going & (chances > 1e-18))
                    piece = slice(rows[0], rows[-1] + 1)
                    moved.setdefault(level, []).append((low + int(rows[0]), chances[piece]))
        alive = {level: _sum(parts) for level, parts in moved.items()}
        before = trials
    return CurveCourse(float(shares[0]), draws, shares)


def _sum(parts: list[tuple[int, np.ndarray]]) -> tuple[int, np.ndarray]:
    low, high = min(low for low, _ in parts), max(low + len(part) for low, part in parts)
    total = np.zeros(high - low)
    for first, part in parts:
        total[first - low : first - low + len(part)] += part
    return low, total


def _staged(grid: str) -> dict[str, Any]:
    """After Horváth et al. (ICLR 2022): stages of fresh draws that share alpha, given up by an upper bound.

    Ours, from their description. It may spend more than the budget: 11,100 draws.
    """
    p0 = sequential.threshold(GRIDS[grid][0], 1.0)
    values = published()
    going, certified, draws = np.ones(len(values)), np.zeros(len(values)), np.zeros(len(values))
    for number in STAGES:
        counts = np.arange(number + 2)
        accept = int(np.argmax(binom.sf(counts - 1, number, p0) <= ALPHA / len(STAGES)))
        refuse = int(np.argmax(binom.cdf(counts, number, p0) > ALPHA / len(STAGES))) - 1
        draws += going * number
        certified += going * binom.sf(accept - 1, number, values)
        going = going * (binom.cdf(accept - 1, number, values) - binom.cdf(refuse, number, values))
    return {
        "grid": grid, "rule": "stages", "draws": float(draws.mean()), "radii_in_sigma": GRIDS[grid],
        "certified_percent": [100 * float(certified.mean())],
    }  # fmt: skip


def _table(results: list[dict[str, Any]]) -> str:
    titles = {"fixed": "fixed n", "spending": "**spending**", "anytime": "anytime", "stages": "stages, as Horváth 2022"}
    rows = []
    for grid in dict.fromkeys(result["grid"] for result in results):
        of_grid = {result["rule"]: result for result in results if result["grid"] == grid}
        for rule, one in of_grid.items():
            lost = max(
                a - b for a, b in zip(of_grid["fixed"]["certified_percent"], one["certified_percent"], strict=True)
            )
            radius = "whole curve, 0 to 3 sigma" if grid == "curve" else f"{grid} sigma"
            target = f"{TARGETS[grid]:,}" if rule == "spending" else ""
            share = " / ".join(f"{share:.2f}" for share in one["certified_percent"])
            rows.append([f"{radius}, {titles[rule]}", f"{one['draws']:,.0f}", target, share, f"{lost:+.3f}"])
    return rows_table(["radius, rule", "mean draws", "target", "certified, %", "points lost to fixed n, at most"], rows)
