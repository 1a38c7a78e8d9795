"""Certified accuracy against radius, as SVG: the same bytes for the same numbers."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medrobust.results.records import Row
from medrobust.results.report.markdown import radius_text
from medrobust.results.tables import Summary, grouped, number_key, share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, PAPER, GRID = "#1b2733", "#fefefe", "#d9dfe5"  # exact colours: the page turns them into its own
# Okabe and Ito's palette, told apart with every common colour vision; markers and dashes say it again.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_DASHES = ((0, (5, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)), (0, (3, 1, 1, 1, 1, 1)))
_NARROW = 32  # letters of a label of which two fit side by side
_STYLE = {
    "svg.hashsalt": "medrobust",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}


def curve_svg(summary: Summary, rows: Sequence[Row] = (), sigma: float | None = None) -> str:
    """Certified accuracy against l2 radius with 95 % bands, one panel a sigma (or that of `sigma` only).

    With `rows` the curves are the exact steps; without, straight lines between the radii of the summary. Dashed: tuned
    on input, marked in the legend. The vertical line is the largest radius these trials could certify.
    """
    import matplotlib as mpl  # 1.7 s, so only where a figure is drawn
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    sigmas = summary["sigmas"] if sigma is None else [sigma]
    groups = grouped(rows)
    with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE}):  # a user's own style must not change the bytes
        figure = Figure(figsize=(5.8 * len(sigmas), 5.0), layout="constrained")
        FigureCanvasSVG(figure)
        for axes, noise in zip(figure.subplots(1, len(sigmas), squeeze=False)[0], sigmas, strict=True):
            _panel(axes, summary["by_sigma"][number_key(noise)], groups.get(noise, {}))
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return text.getvalue()


def _panel(axes: "Axes", block: Summary, rows: dict[str, list[Row]]) -> None:
    for index, name in enumerate(block["defences"]):
        tuned = block["scope"][name] != "model"
        style: dict[str, Any] = {
            "color": _COLOURS[index % len(_COLOURS)],
            "linestyle": _DASHES[index % len(_DASHES)] if tuned else "-",
            "linewidth": 1.7,
        }
        marker = _MARKERS[index % len(_MARKERS)]
        label = f"{name} † tuned on input" if tuned else name
        shares = block["certified_accuracy"][name]
        points = [(radius, shares[number_key(radius)]) for radius in block["radii"]]
        _line(axes, _steps(rows[name]) if name in rows else points, style, stepped=name in rows)
        axes.plot(*_xy(points), linestyle="none", marker=marker, markersize=4.5, color=style["color"])
        axes.plot([], [], marker=marker, markersize=4.5, label=label, **style)
    _limits(axes, block)
    axes.set_title(f"noise σ = {block['sigma']:g}, {block['images']} images", fontsize=10.5, loc="left")
    axes.set_xlabel("l2 radius, pixels in [0, 1]")
    axes.set_ylabel("certified accuracy, %")
    axes.grid(visible=True, linewidth=0.6)
    axes.set_axisbelow(True)
    longest = max(len(label) for label in axes.get_legend_handles_labels()[1])
    axes.legend(  # under the panel, where it hides nothing
        loc="upper left",
        bbox_to_anchor=(-0.08, -0.15),
        ncols=2 if longest <= _NARROW else 1,
        fontsize=8.5,
        frameon=False,
        handlelength=3.2,
    )


def _limits(axes: "Axes", block: Summary) -> None:
    end = block["largest_radius"]
    axes.axvline(end, color=INK, linewidth=1, linestyle=(0, (1, 2)))
    note = f"largest possible: {radius_text(end)}"
    axes.text(end, 99, note, rotation=90, ha="right", va="top", fontsize=8, color=INK)
    axes.set_xlim(0, max(end, 1e-3) * 1.06)
    axes.set_ylim(0, 101)


def _line(axes: "Axes", points: Sequence[tuple[float, dict]], style: dict[str, Any], *, stepped: bool) -> None:
    across, up = _xy(points)
    low = [100 * part["low"] for _, part in points]
    high = [100 * part["high"] for _, part in points]
    # A share at r holds down to the next smaller radius on record.
    axes.fill_between(across, low, high, step="pre" if stepped else None, color=style["color"], alpha=0.09, linewidth=0)
    axes.plot(across, up, drawstyle="steps-pre" if stepped else "default", **style)


def _xy(points: Sequence[tuple[float, dict]]) -> tuple[list[float], list[float]]:
    return [radius for radius, _ in points], [100 * part["value"] for _, part in points]


def _steps(rows: Sequence[Row]) -> list[tuple[float, dict]]:
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
