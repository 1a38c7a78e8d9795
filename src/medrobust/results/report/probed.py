"""probe.html: heads on several models, and what attacked pairs upstream cost them, on one self-contained page."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrobust.files import replace_text
from medrobust.results.report.figure import draw_defence, draw_line, figure_svg, finish
from medrobust.results.report.html import inline, template
from medrobust.results.report.markdown import percent, plain, table_line
from medrobust.results.rows.attacked import attack_title
from medrobust.results.upstream import mean_spectra
from medrobust.words import eps_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Probed = Mapping[str, Any]  # as in probe.json


def write_probe_page(folder: Path, result: Probed) -> Path:
    """Write probe.html, and noise.svg and spectrum.svg where models with several attacked shares were compared.

    The same result gives the same bytes. Raises RunError where the folder cannot be written.
    """
    spectra, figures = mean_spectra(result["models"]), {}
    shown = columns(result)
    panels = [partial(_over_share, result=result, title=title, told=told) for title, told in shown.items()]
    if result["noise_curves"]:
        figures["noise"] = figure_svg(panels)
    if spectra:
        figures["spectrum"] = figure_svg([partial(_spectra, spectra=spectra)])
    for name, svg in figures.items():
        replace_text(folder / f"{name}.svg", svg)
    alone = [figure_svg([panel]) for panel in panels] if "noise" in figures else []
    page = folder / "probe.html"
    text = template("probe.html.j2").render(
        result=result,
        levels=[eps_text(eps) for eps in result["attack"]["eps"]],
        columns=list(shown.values()),
        lines=[line for name, found in result["models"].items() for line in _lines(name, found, list(shown))],
        points=_points(result),
        panels=[inline(svg, f"noise{place}-") for place, svg in enumerate(alone)],
        spectrum=inline(figures["spectrum"], "spectrum-") if spectra else None,
        flags=[
            f"{name}, {recipe}: {sentence}"
            for name, found in result["models"].items()
            for recipe, sentences in found["flags"].items()
            for sentence in sentences
        ],
    )
    replace_text(page, text)
    return page


def noise_markdown(result: Probed) -> str:
    """The means over the models of each attacked share as a table; empty where fewer than two shares are known."""
    lines = _points(result)
    if not lines:
        return ""
    at = lines[0]["at"]
    return "\n".join([
        "**Against attacked pairs upstream**: means over the models of a share", "",
        table_line(["recipe", "", *at]), table_line(["---", "---", *["---:"] * len(at)]),
        *(table_line([plain(line["recipe"]), line["column"], *map(percent, line["points"])]) for line in lines), "",
        "Intervals: exact 95 % ones of a mean over so many images; more seeds do not narrow them.", "",
    ])  # fmt: skip


def columns(result: Probed) -> dict[str, str]:
    """Clean and every attack, as the summaries call them, and what a reader is told."""
    attack = result["attack"]
    name, norm = attack["name"], attack["norm"]
    return {"clean": "clean"} | {
        attack_title(name, norm, eps): f"robust {norm} {eps_text(eps)}" for eps in attack["eps"]
    }


def _lines(model: str, found: Mapping[str, Any], titles: Sequence[str]) -> list[dict[str, Any]]:
    noise = found["noise"]
    return [
        {
            "model": model,
            "noise": _percent(noise["share"]) if noise else None,
            "recipe": recipe,
            "shares": [_share(found, recipe, title) for title in titles],
        }
        for recipe in found["clean_accuracy"]
    ]


def _share(found: Mapping[str, Any], recipe: str, title: str) -> Mapping[str, Any]:
    part: Mapping[str, Any] = found["clean_accuracy"] if title == "clean" else found["robust_accuracy"][recipe]
    return part[recipe] if title == "clean" else part[title]


def _points(result: Probed) -> list[dict[str, Any]]:
    return [
        {
            "recipe": recipe,
            "column": told,
            "points": own[title],
            "at": [_percent(one["share"]) for one in own[title]],
        }
        for title, told in columns(result).items()
        for recipe, own in result["noise_curves"].items()
    ]


def _over_share(axes: "Axes", result: Probed, title: str, told: str) -> None:
    """A line a recipe through the means, small dots for the single models."""
    for index, (recipe, own) in enumerate(result["noise_curves"].items()):
        points = own[title]
        draw_defence(axes, index, recipe, "model", [(100 * one["share"], one) for one in points])
        singles = [(100 * one["share"], 100 * value) for one in points for value in one["models"]]
        draw_line(axes, index, singles, dots=True)
    lowest = min(one["low"] for own in result["noise_curves"].values() for points in own.values() for one in points)
    axes.set_ylim(10 * int(10 * lowest), 101)  # the same in every panel
    finish(axes, title=told, across="attacked pairs upstream, %", up="accuracy, %")


def _spectra(axes: "Axes", spectra: Mapping[float, Mapping[str, Any]]) -> None:
    for index, (share, one) in enumerate(spectra.items()):
        values = [(float(place), value) for place, value in enumerate(one["shares"], start=1) if value > 0]
        draw_line(axes, index, values, label=f"{_percent(share)}, entropy {one['entropy']:.2f}")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    finish(axes, title="frozen features", across="singular value, largest first", up="share of their sum")


def _percent(share: float) -> str:
    return f"{100 * share:g} %"
