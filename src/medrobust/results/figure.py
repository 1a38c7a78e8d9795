"""The curves of a report: one style, one line a defence, the same bytes for the same numbers."""

import io
from collections.abc import Callable, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from medrobust.words import Shared

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, PAPER, GRID = "#1b2733", "#fefefe", "#d9dfe5"  # exact colours: the page turns them into its own
# Okabe and Ito's palette, told apart with every common colour vision; markers and dashes say it again.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_DASHES = ((0, (5, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)), (0, (3, 1, 1, 1, 1, 1)))
_NARROW, _WIDE = 32, 56  # letters of a label: of which two fit side by side, and that fit on one line
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

Points = Sequence[tuple[float, Shared]]  # where, and the share there with its interval


def figure_svg(panels: Sequence[Callable[["Axes"], None]]) -> str:
    """Panels side by side, each drawn by a function, as SVG."""
    import matplotlib as mpl  # 1.7 s, so only where a figure is drawn
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE}):  # a user's own style must not change the bytes
        figure = Figure(figsize=(5.8 * len(panels), 5.0), layout="constrained")
        FigureCanvasSVG(figure)
        for axes, draw in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return text.getvalue()


def draw_defence(axes: "Axes", index: int, name: str, scope: str, points: Points, steps: Points | None = None) -> None:
    """The line of a defence with its band and markers: through its points, or along exact steps.

    Dashed, and marked in the legend, where it was tuned on the input.
    """
    tuned = scope != "model"
    style: dict[str, Any] = {
        "color": _COLOURS[index % len(_COLOURS)],
        "linestyle": _DASHES[index % len(_DASHES)] if tuned else "-",
        "linewidth": 1.7,
    }
    marker = _MARKERS[index % len(_MARKERS)]
    label = fill(f"{name} † tuned on input" if tuned else name, _WIDE)
    _line(axes, points if steps is None else steps, style, stepped=steps is not None)
    axes.plot(*_xy(points), linestyle="none", marker=marker, markersize=4.5, color=style["color"])
    axes.plot([], [], marker=marker, markersize=4.5, label=label, **style)


def draw_line(
    axes: "Axes", index: int, points: Sequence[tuple[float, float]], *, label: str | None = None, dots: bool = False
) -> None:
    """A plain line in the colour of that index, or faint dots alone."""
    style: dict[str, Any] = {"color": _COLOURS[index % len(_COLOURS)]}
    style |= {"linestyle": "none", "marker": ".", "markersize": 4, "alpha": 0.6} if dots else {"linewidth": 1.5}
    axes.plot([where for where, _ in points], [value for _, value in points], label=label, **style)


def finish(axes: "Axes", *, title: str, across: str, up: str) -> None:
    """Titles, grid and legend, once all defences are drawn."""
    axes.set_title(title, fontsize=10.5, loc="left")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
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


def _line(axes: "Axes", points: Points, style: dict[str, Any], *, stepped: bool) -> None:
    across, up = _xy(points)
    low = [100 * part.low for _, part in points]
    high = [100 * part.high for _, part in points]
    # A share at r holds down to the next smaller radius on record.
    axes.fill_between(across, low, high, step="pre" if stepped else None, color=style["color"], alpha=0.09, linewidth=0)
    axes.plot(across, up, drawstyle="steps-pre" if stepped else "default", **style)


def _xy(points: Points) -> tuple[list[float], list[float]]:
    return [where for where, _ in points], [100 * part.value for _, part in points]
