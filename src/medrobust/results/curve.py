"""Certified accuracy against radius, and accuracy under attack against eps, as SVG."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from medrobust.results.figure import INK, Points, draw_defence, figure_svg, finish
from medrobust.results.rows.certified import CertifiedRow
from medrobust.results.shares import share
from medrobust.results.summary import AttackedSummary, CertifiedSummary
from medrobust.results.tables import grouped
from medrobust.words import radius_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def curve_svg(levels: Sequence[CertifiedSummary], rows: Sequence[CertifiedRow] = ()) -> str:
    """Certified accuracy against l2 radius with 95 % bands, one panel a noise level.

    With `rows` the curves are the exact steps; without, straight lines between the radii of the summary. Dashed: tuned
    on input, marked in the legend. The vertical line is the largest radius these trials could certify.
    """
    groups = grouped(rows)
    return figure_svg([partial(_certified, level=level, rows=groups.get(level.sigma, {})) for level in levels])


def attack_curve_svg(attack: AttackedSummary) -> str | None:
    """Accuracy against eps with 95 % bands, from the clean accuracy at 0 on; None where there is one eps only.

    linf in grey levels of 255, l2 in pixels of [0, 1].
    """
    return figure_svg([partial(_attacked, attack=attack)]) if len(attack.eps) > 1 else None


def _certified(axes: "Axes", level: CertifiedSummary, rows: Mapping[str, Sequence[CertifiedRow]]) -> None:
    for index, name in enumerate(level.defences):
        points = list(level.certified_accuracy[name].items())
        draw_defence(axes, index, name, level.scope[name], points, _steps(rows[name]) if name in rows else None)
    _limits(axes, level)
    finish(
        axes,
        title=f"noise σ = {level.sigma:g}, {level.images} images",
        across="l2 radius, pixels in [0, 1]",
        up="certified accuracy, %",
    )


def _attacked(axes: "Axes", attack: AttackedSummary) -> None:
    levels = attack.norm == "linf"
    scale = 255 if levels else 1
    for index, name in enumerate(attack.defences):
        found, titles = attack.robust_accuracy[name], zip(attack.eps, attack.attacks, strict=True)
        points = [(scale * eps, found[title]) for eps, title in titles if title in found]
        draw_defence(axes, index, name, attack.scope[name], [(0.0, attack.clean_accuracy[name]), *points])
    axes.set_xlim(0, scale * attack.eps[-1] * 1.06)
    axes.set_ylim(0, 101)
    finish(
        axes,
        title=f"{attack.name}, {attack.images} images",
        across="linf eps, grey levels of 255" if levels else "l2 eps, pixels in [0, 1]",
        up="accuracy under attack, %",
    )


def _limits(axes: "Axes", level: CertifiedSummary) -> None:
    end = level.largest_radius
    axes.axvline(end, color=INK, linewidth=1, linestyle=(0, (1, 2)))
    note = f"largest possible: {radius_text(end)}"
    axes.text(end, 99, note, rotation=90, ha="right", va="top", fontsize=8, color=INK)
    axes.set_xlim(0, max(end, 1e-3) * 1.06)
    axes.set_ylim(0, 101)


def _steps(rows: Sequence[CertifiedRow]) -> Points:
    """The points where the share of images certified at a radius changes, from 0 to just past the last."""
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
