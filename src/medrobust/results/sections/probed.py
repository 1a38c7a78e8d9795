"""probe.html and probe.md: heads on several models, and their loss of accuracy by attacked pairs upstream."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import escape

from medrobust.files import replace_text
from medrobust.results.figure import draw_defence, draw_line, figure_svg, finish
from medrobust.results.markdown import cell_text, table
from medrobust.results.page import NOTICE_SENTENCE, inline, page, render
from medrobust.results.upstream import CurvePoint, ProbeSummary, Spectrum, mean_spectra
from medrobust.words import eps_text, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class CurveLine(NamedTuple):
    """A curve as a row of a table: the recipe, the column it is of, its points, and their attacked shares as text."""

    recipe: str
    column: str
    points: Sequence[CurvePoint]
    at: Sequence[str]


def write_probe_page(folder: Path, found: ProbeSummary) -> Path:
    """Write probe.html, and noise.svg and spectrum.svg where models with several attacked shares were compared.

    The same comparison gives the same bytes. Raises RunError where the folder cannot be written.
    """
    upstream, figures = _upstream(found)
    for name, svg in figures.items():
        replace_text(folder / f"{name}.svg", svg)
    path, attack = folder / "probe.html", found.attack
    levels = ", ".join(eps_text(eps) for eps in attack.eps)
    text = page(
        title=f"Heads compared: {found.data}",
        eyebrow="heads compared",
        heading=found.data,
        under=escape(
            f"{len(found.models)} models · split {found.split} · attacked by {attack.name} in {attack.norm} {levels}"
        ),
        sections=[upstream, _models(found)],
        source="<code>probe.json</code>",
    )
    replace_text(path, text)
    return path


def probed_markdown(found: ProbeSummary) -> str:
    """probe.md: means over the attacked shares where there are several, then a row a model and head."""
    return "\n".join(part for part in (upstream_markdown(found), _models_markdown(found)) if part)


def upstream_markdown(found: ProbeSummary) -> str:
    """The means over the models of each attacked share as a table; empty where fewer than two shares are known."""
    lines = _curve_lines(found)
    if not lines:
        return ""
    rows = [[cell_text(line.recipe), line.column, *map(percent, line.points)] for line in lines]
    return "\n".join([
        "**Against attacked pairs upstream**: means over the models of a share", "",
        *table(["recipe", "", *lines[0].at], rows), "",
        "Intervals: exact 95 % ones of a mean over so many images; more seeds do not narrow them.", "",
    ])  # fmt: skip


def _models_markdown(found: ProbeSummary) -> str:
    columns, attack = found.attack.columns, found.attack
    rows = [
        [cell_text(name), cell_text(recipe), *(percent(model.share_of(recipe, title)) for title in columns)]
        for name, model in found.models.items()
        for recipe in model.clean_accuracy
    ]
    images = " and ".join(dict.fromkeys(str(model.images) for model in found.models.values()))
    balls = f"{attack.norm} {', '.join(eps_text(eps) for eps in attack.eps)}"
    return "\n".join([
        f"**Heads compared**: {attack.name} in {balls}, {images} images", "",
        *table(["model", "recipe", *columns.values()], rows), "",
        "Shares of all images in %, with exact 95 % intervals. *robust* is an upper bound: a stronger attack might "
        "break more. " + NOTICE_SENTENCE, "",
    ])  # fmt: skip


def _upstream(found: ProbeSummary) -> tuple[str, dict[str, str]]:
    """The section on attacked pairs upstream, and its figures; empty where fewer than two shares are known."""
    spectra, figures, lines = mean_spectra(found.models), {}, _curve_lines(found)
    shown = found.attack.columns.items()
    panels = [partial(_over_share, found=found, title=title, told=told) for title, told in shown]
    if lines:
        figures["noise"] = figure_svg(panels)
    if spectra:
        figures["spectrum"] = figure_svg([partial(_spectra, spectra=spectra)])
    if not lines:
        return "", figures
    html = render(
        "sections/upstream.html.j2",
        points=lines,
        panels=[inline(figure_svg([panel]), f"noise{place}-") for place, panel in enumerate(panels)],
        spectrum=inline(figures["spectrum"], "spectrum-") if spectra else None,
    )
    return html, figures


def _models(found: ProbeSummary) -> str:
    columns = found.attack.columns
    lines: list[dict[str, Any]] = [
        {
            "model": name,
            "noise": _percent(model.noise.share) if model.noise else None,
            "recipe": recipe,
            "shares": [model.share_of(recipe, title) for title in columns],
        }
        for name, model in found.models.items()
        for recipe in model.clean_accuracy
    ]
    flags = [
        f"{name}, {recipe}: {sentence}"
        for name, model in found.models.items()
        for recipe, sentences in model.flags.items()
        for sentence in sentences
    ]
    columns_told = list(columns.values())
    return render("sections/probed.html.j2", result=found, columns=columns_told, lines=lines, flags=flags)


def _curve_lines(found: ProbeSummary) -> list[CurveLine]:
    return [
        CurveLine(recipe, told, own[title], [_percent(one.share) for one in own[title]])
        for title, told in found.attack.columns.items()
        for recipe, own in found.noise_curves.items()
    ]


def _over_share(axes: "Axes", found: ProbeSummary, title: str, told: str) -> None:
    """A line a recipe through the means, small dots for the single models."""
    for index, (recipe, own) in enumerate(found.noise_curves.items()):
        points = own[title]
        draw_defence(axes, index, recipe, "model", [(100 * one.share, one) for one in points])
        singles = [(100 * one.share, 100 * value) for one in points for value in one.models]
        draw_line(axes, index, singles, dots=True)
    lowest = min(one.low for own in found.noise_curves.values() for points in own.values() for one in points)
    axes.set_ylim(10 * int(10 * lowest), 101)  # the same in every panel
    finish(axes, title=told, across="attacked pairs upstream, %", up="accuracy, %")


def _spectra(axes: "Axes", spectra: Mapping[float, Spectrum]) -> None:
    for index, (share, one) in enumerate(spectra.items()):
        values = [(float(place), value) for place, value in enumerate(one.shares, start=1) if value > 0]
        draw_line(axes, index, values, label=f"{_percent(share)}, entropy {one.entropy:.2f}")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    finish(axes, title="frozen features", across="singular value, largest first", up="share of their sum")


def _percent(share: float) -> str:
    return f"{100 * share:g} %"
