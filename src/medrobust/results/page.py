"""The frame of a self-contained page, without scripts; it alone says: not a medical device."""

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from medrobust.results.figure import GRID, INK, PAPER
from medrobust.words import number_key, radius_text, span

NOTICE = "not a medical device"  # in every JSON file and page
NOTICE_SENTENCE = "Not a medical device."  # in every table


def page(*, title: str, eyebrow: str, heading: str, under: str, sections: Sequence[str], source: str) -> str:
    """A whole page. `under`, `source` and the sections are HTML: its subject, and the file it was made from."""
    from markupsafe import Markup

    return render(
        "page.html.j2",
        title=title,
        eyebrow=eyebrow,
        heading=heading,
        under=Markup(under),
        body=Markup("\n".join(sections)),
        source=Markup(source),
        notice=NOTICE_SENTENCE,
        style=Markup((resources.files("medrobust.results") / "page.css").read_text(encoding="utf-8")),
    ).removesuffix("\n")


def render(template: str, **values: Any) -> str:
    """HTML from a template of this folder, `sections/NAME.html.j2`; texts are escaped, a missing value is an error."""
    text: str = _environment().get_template(template).render(**values)
    return text


def inline(svg: str, prefix: str) -> Any:
    """An SVG for the middle of a page: no prolog, ids of its own, the page's colours (dark ones too)."""
    from markupsafe import Markup

    body = svg[svg.index("<svg") :]
    for found, put in (
        (' id="', f' id="{prefix}'),
        ('href="#', f'href="#{prefix}'),
        ("url(#", f"url(#{prefix}"),
        (INK, "currentColor"),
        (f"fill: {PAPER}", "fill: none"),
        (GRID, "var(--line)"),
    ):
        body = body.replace(found, put)
    return Markup(body)


def dashed(low: float, high: float) -> str:
    """The interval of a share in %, as a page writes it: `36.6–45.5`."""
    return span(low, high).replace("-", "–")


@cache
def _environment() -> Any:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    here = resources.files("medrobust.results")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        loader=FunctionLoader(lambda file: here.joinpath(*file.split("/")).read_text(encoding="utf-8")),
    )  # fmt: skip
    environment.filters |= {"radius": radius_text, "number": number_key, "span": lambda one: dashed(one.low, one.high)}
    return environment
