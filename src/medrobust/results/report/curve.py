"""Certified accuracy against radius, and accuracy under attack against eps, as SVG."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from medrobust.results.report.figure import INK, Points, draw_defence, figure_svg, finish
from medrobust.results.report.markdown import radius_text
from medrobust.results.rows.attacked import attack_title
from medrobust.results.rows.certified import CertifiedRow
from medrobust.results.tables import Summary, grouped, number_key, share

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def curve_svg(summary: Summary, rows: Sequence[CertifiedRow] = (), sigma: float | None = None) -> str:
    """Certified accuracy against l2 radius with 95 % bands, one panel a sigma (or that of `sigma` only).

    With `rows` the curves are the exact steps; without, straight lines between the radii of the summary. Dashed: tuned
    on input, marked in the legend. The vertical line is the largest radius these trials could certify.
    """
    groups = grouped(rows)
    sigmas = summary["sigmas"] if sigma is None else [sigma]
    blocks = {noise: summary["by_sigma"][number_key(noise)] for noise in sigmas}
    return figure_svg([
        partial(_certified, block=block, rows=groups.get(noise, {})) for noise, block in blocks.items()
    ])  # fmt: skip


def attack_curve_svg(summary: Summary) -> str | None:
    """Accuracy against eps with 95 % bands, from the clean accuracy at 0 on; None where there is one eps only.

    linf in grey levels of 255, l2 in pixels of [0, 1].
    """
    if len(summary.get("attack", {}).get("eps", ())) < 2:
        return None
    return figure_svg([partial(_attacked, summary=summary)])


def _certified(axes: "Axes", block: Summary, rows: dict[str, list[CertifiedRow]]) -> None:
    for index, name in enumerate(block["defences"]):
        shares = block["certified_accuracy"][name]
        points = [(radius, shares[number_key(radius)]) for radius in block["radii"]]
        draw_defence(axes, index, name, block["scope"][name], points, _steps(rows[name]) if name in rows else None)
    _limits(axes, block)
    finish(
        axes,
        title=f"noise σ = {block['sigma']:g}, {block['images']} images",
        across="l2 radius, pixels in [0, 1]",
        up="certified accuracy, %",
    )


def _attacked(axes: "Axes", summary: Summary) -> None:
    part, levels = summary["attack"], summary["attack"]["norm"] == "linf"
    scale = 255 if levels else 1
    for index, name in enumerate(part["defences"]):
        found = summary["robust_accuracy"][name]
        titles = {eps: attack_title(part["name"], part["norm"], eps) for eps in part["eps"]}
        points = [(scale * eps, found[title]) for eps, title in titles.items() if title in found]
        draw_defence(axes, index, name, part["scope"][name], [(0.0, part["clean_accuracy"][name]), *points])
    axes.set_xlim(0, scale * part["eps"][-1] * 1.06)
    axes.set_ylim(0, 101)
    finish(
        axes,
        title=f"{part['name']}, {part['images']} images",
        across="linf eps, grey levels of 255" if levels else "l2 eps, pixels in [0, 1]",
        up="accuracy under attack, %",
    )


def _limits(axes: "Axes", block: Summary) -> None:
    end = block["largest_radius"]
    axes.axvline(end, color=INK, linewidth=1, linestyle=(0, (1, 2)))
    note = f"largest possible: {radius_text(end)}"
    axes.text(end, 99, note, rotation=90, ha="right", va="top", fontsize=8, color=INK)
    axes.set_xlim(0, max(end, 1e-3) * 1.06)
    axes.set_ylim(0, 101)


def _steps(rows: Sequence[CertifiedRow]) -> Points:
    """Where the share of images certified at a radius changes, from 0 to just past the last."""
    found = sorted(row.radius for row in rows if row.correct)
    total = len(rows)
    corners = sorted({0.0, *found})
    points = []
    reached = 0  # found[:reached] are smaller than the corner
    for corner in corners:
        while reached < len(found) and found[reached] < corner:
            reached += 1
        points.append((corner, share(len(found) - reached, total)))
    return [*points, (corners[-1], share(0, total))]
