"""Every stopping rule replayed on the same answers of real certificates with fixed n."""

import argparse
from typing import Any

import numpy as np
import torch
from replay import ESTIMATION, HEADS, SELECTION, SIGMA, Sequences, collect
from speed_record import RAW, publish, rows_table
from speed_stopping import GRIDS, RULES, rule_of

from medrobust.smoothing.grid import RADII
from medrobust.smoothing.sequential import Boundaries, Race

GRIDS_IN_SIGMA = {**GRIDS, "default": tuple(radius / SIGMA for radius in RADII)}


def replay(arguments: argparse.Namespace) -> None:
    """Collect what is missing, as far as the time goes, then replay what is there."""
    torch.set_num_threads(arguments.threads)
    results, images = [], {}
    for name in arguments.sets:
        seconds = 60.0 * arguments.minutes / len(arguments.sets)
        found = collect(name, RAW, images=arguments.images, seconds=seconds, compiled=not arguments.eager)
        images[name] = len(found.labels)
        if images[name]:
            results += [_result(name, found, head, grid) for head in range(len(HEADS)) for grid in GRIDS_IN_SIGMA]
    settings = {"images": images, "sigma": SIGMA, "selection": SELECTION, "budget": ESTIMATION, "model": "builtin"}
    publish("replay", {**settings, "results": results}, _table(results, images))


def _result(name: str, found: Sequences, head: int, grid: str) -> dict[str, Any]:
    counts = np.cumsum(found.hits(head), axis=1, dtype=np.int64)
    radii = tuple(SIGMA * radius for radius in GRIDS_IN_SIGMA[grid])
    right = found.selected[:, head] == found.labels
    rules = {}
    for rule in RULES:
        race = _run(rule_of(rule, radii, sigma=SIGMA, budget=ESTIMATION), counts)
        reached = race.certified[:, None] > np.arange(len(radii))
        rules[rule] = {
            "draws": float(race.drawn.mean()),
            "certified_percent": (100 * reached.mean(axis=0)).tolist(),
            "certified_right_percent": (100 * (reached & right[:, None]).mean(axis=0)).tolist(),
        }
    settled = float(found.settled[:, head].mean())
    return {
        "set": name, "head": HEADS[head], "grid": grid, "radii": radii, "selection_draws": settled, "rules": rules,
    }  # fmt: skip


def _run(rule: Boundaries, counts: np.ndarray) -> Race:
    """The library's own race, with every image as one runner."""
    race = Race(rule, len(counts))
    for number, trials in enumerate(rule.looks.tolist()):
        race.look(number, counts[:, trials - 1])
    return race


def _table(results: list[dict[str, Any]], images: dict[str, int]) -> str:
    rows = []
    for one in (one for one in results if one["head"] == HEADS[0]):
        shares = {rule: np.array(its["certified_percent"]) for rule, its in one["rules"].items()}
        cells = [" / ".join(f"{share:.1f}" for share in shares["fixed"])]
        for rule in RULES[1:]:
            lost = shares["fixed"] - shares[rule]
            cells += [f"{one['rules'][rule]['draws']:,.0f}", f"{lost.max():+.2f}"]
        rows.append([f"{one['set']}, {_title(one)}", *cells])
    lost = [f"{rule}: {what}" for rule in RULES[1:] for what in ("mean draws", "points lost, at most")]
    told = ", ".join(f"{count} images of {name}" for name, count in images.items())
    return f"{told}; zero-shot head.\n\n{rows_table(['set, radii', 'certified by fixed n, %', *lost], rows)}"


def _title(one: dict[str, Any]) -> str:
    radii = one["radii"]
    return f"r = {radii[0]:g}" if len(radii) == 1 else f"{len(radii)} radii to {radii[-1]:g}"
