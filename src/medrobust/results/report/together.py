"""Clean, attacked and certified accuracy of every defence in one table: for the page, Markdown and the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from medrobust.results.report.markdown import DAGGER, percent, plain, table_line
from medrobust.results.rows.attacked import attack_title
from medrobust.results.tables import Summary, middle_radius, number_key
from medrobust.words import eps_text


class Line(NamedTuple):
    """A defence and its shares in the order of the columns; None where it has no rows yet."""

    defence: str
    scope: str
    shares: Sequence[Mapping[str, Any] | None]


class Together(NamedTuple):
    """The table: what was done, its columns, a line a defence, and how to read it."""

    title: str
    heads: Sequence[str]
    lines: Sequence[Line]
    notes: Sequence[str]


def together(summary: Summary) -> Together | None:
    """Certificates of the first sigma and the attacks of a run side by side; None where it has one kind only."""
    if not summary["sigmas"] or "attack" not in summary:
        return None
    block, part = summary["by_sigma"][number_key(summary["sigmas"][0])], summary["attack"]
    radii = _radii(block)
    lines = [
        Line(name, {**part["scope"], **block["scope"]}[name], _shares(summary, block, name, radii))
        for name in dict.fromkeys([*block["defences"], *part["defences"]])
    ]
    robust = [f"robust {part['norm']} {eps_text(eps)}" for eps in part["eps"]]
    heads = ["clean", *robust, *(f"certified r = {number_key(radius)}" for radius in radii), "abstained"]
    title = f"{part['name']}, noise σ = {number_key(block['sigma'])}, {block['images']} images"
    return Together(title, heads, lines, _notes(block, part, any(line.scope != "model" for line in lines)))


def together_markdown(table: Together) -> str:
    """The table with its notes."""
    lines = [
        f"**Clean, attacked and certified**: {table.title}",
        "",
        table_line(["defence", "scope", *table.heads]),
        table_line(["---", "---", *["---:"] * len(table.heads)]),
        *(table_line(_cells(line)) for line in table.lines),
        "",
        "\n\n".join(table.notes),
    ]
    return "\n".join(lines) + "\n"


def _cells(line: Line) -> list[str]:
    name = plain(line.defence) + (f" {DAGGER}" if line.scope != "model" else "")
    return [name, line.scope, *("-" if part is None else percent(part) for part in line.shares)]


def _radii(block: Summary) -> list[float]:
    """0, the middle radius and sigma, as far as they are in the grid."""
    wanted = {0.0, middle_radius(block), block["sigma"]}
    return [radius for radius in block["radii"] if radius in wanted]


def _shares(
    summary: Summary, block: Summary, name: str, radii: Sequence[float]
) -> list[Mapping[str, float | int] | None]:
    part, robust = summary["attack"], summary["robust_accuracy"].get(name, {})
    certified = block["certified_accuracy"].get(name, {})
    return [
        block["clean_accuracy"].get(name) or part["clean_accuracy"].get(name),
        *(robust.get(attack_title(part["name"], part["norm"], eps)) for eps in part["eps"]),
        *(certified.get(number_key(radius)) for radius in radii),
        block["abstained"].get(name),
    ]


def _notes(block: Summary, part: Summary, tuned: bool) -> list[str]:
    notes = [
        "Clean and robust are of the classifier without noise; that no attack broke an image proves nothing. "
        "Certified is of the smoothed classifier: right, and proved to stay so within an l2 radius r. "
        "Shares in %, with exact 95 % intervals. Not a medical device."
    ]
    if part["images"] != block["images"]:
        notes.append(f"Attacked: {part['images']} images, certified: {block['images']}.")
    if tuned:
        elsewhere = part["sigma"] not in (None, block["sigma"])
        notes.append(
            f"{DAGGER} tuned on input: attacked and certified with the prompt or tower frozen as tuned on that image"
            + (f", attacked as tuned at σ = {part['sigma']:g}." if elsewhere else ".")
        )
    return notes
