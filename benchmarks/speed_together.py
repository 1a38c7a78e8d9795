"""One certificate of one radius, ours against the plain loop: faster draws times fewer draws."""

import argparse
import json
from typing import Any

from product import DATA
from speed_encoder import best
from speed_networks import ARCHITECTURES
from speed_record import publish, rows_table

TARGETS = {"vit-b32": "23", "tiny": "35"}
SELECTION = 100


def together(arguments: argparse.Namespace) -> None:  # noqa: ARG001 - the signature of every part
    """Multiply what `encoder` and `stopping` measured; nothing is timed here."""
    timed, counted = _read("encoder")["results"], _read("stopping")["results"]
    draws = {one["grid"]: one["draws"] for one in counted if one["rule"] == "spending" and one["grid"] != "curve"}
    results = []
    for name in dict.fromkeys(one["model"] for one in timed):
        plain = best(timed, name, "literature")
        ours = max(
            (best(timed, name, who) for who in ("eager", "compiled")), key=lambda one: one["share"] if one else 0
        )
        if plain and ours:
            faster = ours["share"] / plain["share"]
            counted_only = {grid: faster * 10_000 / mean for grid, mean in draws.items()}
            all_draws = {grid: faster * (10_000 + SELECTION) / (mean + SELECTION) for grid, mean in draws.items()}
            results.append({"model": name, "faster": faster, "estimation": counted_only, "with_selection": all_draws})
    publish("together", {"results": results}, _table(results))


def _read(part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / f"speed-{part}.json").read_text(encoding="utf-8"))
    return found


def _table(results: list[dict[str, Any]]) -> str:
    rows = []
    for one in results:
        for what, title in (("estimation", "counted draws"), ("with_selection", "with the 100 that choose the class")):
            cells = [f"{ratio:.1f}" for ratio in one[what].values()]
            target = TARGETS.get(one["model"], "") if what == "estimation" else ""
            rows.append([f"{ARCHITECTURES[one['model']].title}, {title}", f"{one['faster']:.2f}", *cells, target])
    grids = [f"x faster, {grid} sigma" for grid in results[0]["estimation"]] if results else []
    return rows_table(["", "x faster draws", *grids, "target"], rows)
