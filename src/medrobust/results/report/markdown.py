"""The tables of a run as Markdown, for papers, issues and model cards."""

import math
from collections.abc import Mapping, Sequence

from medrobust.results.report.findings import finding_lines, headings
from medrobust.results.tables import Summary, number_key
from medrobust.smoothing import bounds

DAGGER = "†"


def markdown_table(summary: Summary, sigma: float | None = None) -> str:
    """One table a sigma (or that of `sigma` only): a row a defence, with its scope and exact 95 % intervals."""
    sigmas = summary["sigmas"] if sigma is None else [sigma]
    blocks = [summary["by_sigma"][number_key(noise)] for noise in sigmas]
    tables = "\n".join(_table(block) + _findings_table(block) for block in blocks)
    tuned = any(scope != "model" for block in blocks for scope in block["scope"].values())
    notes = [
        "Shares of all images in %, with exact 95 % intervals; radii are l2 in pixels of [0, 1]. Not a medical device."
    ]
    if tuned:
        notes.append(
            f"{DAGGER} tuned on input: the radius speaks of the prompt or tower frozen as tuned on that image."
        )
    return tables + "\n" + "\n".join(f"{note}\n" for note in notes)


def _table(block: Summary) -> str:
    heads = [f"r = {number_key(radius)}" for radius in block["radii"]]
    header = ["defence", "scope", "clean", *heads, "abstained", "certified wrong", "ACR", "samples"]
    lines = [
        f"**σ = {number_key(block['sigma'])}**, {block['images']} images",
        "",
        table_line(header),
        table_line(["---", "---", *["---:"] * (len(header) - 2)]),
        *(table_line(_cells(block, name)) for name in block["defences"]),
    ]
    return "\n".join(lines) + "\n"


def _findings_table(block: Summary) -> str:
    lines = finding_lines(block)
    if not lines:
        return ""
    header = ["finding", "defence", "images with it", *headings(lines)]
    rows = [
        [
            plain(line.finding),
            plain(line.defence) + (f" {DAGGER}" if line.scope != "model" else ""),
            f"{line.there} of {line.images}",
            *("-" if part is None else percent(part) for part in line.shares.values()),
        ]
        for line in lines
    ]
    body = [table_line(header), table_line(["---", "---", *["---:"] * (len(header) - 2)]), *map(table_line, rows)]
    return "\nThe table above counts an image where all of its findings are. Each finding by itself:\n\n" + "\n".join(
        [*body, ""]
    )


def _cells(block: Summary, name: str) -> list[str]:
    tuned = block["scope"][name] != "model"
    shares = [block["certified_accuracy"][name][number_key(radius)] for radius in block["radii"]]
    return [
        plain(name) + (f" {DAGGER}" if tuned else ""),
        block["scope"][name],
        percent(block["clean_accuracy"][name]),
        *(percent(part) for part in shares),
        percent(block["abstained"][name]),
        percent(block["certified_wrong"][name]),
        radius_text(block["average_certified_radius"][name]),
        f"{block['mean_samples'][name]:,.0f}",
    ]


def percent(part: Mapping[str, float]) -> str:
    """A share with its interval: `41.0 (36.6-45.5)`."""
    return f"{100 * part['value']:.1f} ({span(part)})"


def span(part: Mapping[str, float]) -> str:
    """The interval alone, widened to one decimal so that it never claims more than it holds.

    >>> span({"low": 0.36659, "high": 0.45451})
    '36.6-45.5'
    """
    low, high = math.floor(1000 * part["low"]) / 10, math.ceil(1000 * part["high"]) / 10
    return f"{low:.1f}-{high:.1f}"


def radius_text(radius: float | None) -> str:
    """A radius with three decimals, rounded down; a dash where there is none.

    >>> radius_text(0.79989), radius_text(None)
    ('0.799', '-')
    """
    return "-" if radius is None else f"{bounds.round_down(radius, 3):.3f}"


def table_line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def plain(name: str) -> str:
    """A name that breaks no table and is no HTML."""
    for sign, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|")):
        name = name.replace(sign, written)
    return " ".join(name.split())
