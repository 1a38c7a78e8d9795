"""Clean, attacked and certified accuracy of every defence in one table: for the page, Markdown and the terminal."""

from collections.abc import Sequence
from typing import NamedTuple

from medrobust.results.markdown import DAGGER, marked, table
from medrobust.results.page import NOTICE_SENTENCE, render
from medrobust.results.report import RunReport, Section
from medrobust.results.summary import AttackedSummary, CertifiedSummary, RunSummary
from medrobust.smoothing.bounds import Interval
from medrobust.words import number_key, percent


class TogetherLine(NamedTuple):
    """A defence and its shares in the order of the columns; None where it has no rows yet."""

    defence: str
    scope: str
    shares: Sequence[Interval | None]


class Together(NamedTuple):
    """The table: its title, its columns, a line a defence, and notes on reading it."""

    title: str
    heads: Sequence[str]
    lines: Sequence[TogetherLine]
    notes: Sequence[str]


def together(report: RunReport) -> Section:
    """The table of both kinds of rows; empty where a run has one kind only."""
    found = together_table(report.summary)
    if found is None:
        return Section()
    return Section(render("sections/together.html.j2", table=found), together_markdown(found))


def together_table(summary: RunSummary) -> Together | None:
    """Certificates of the first sigma and the attacks of a run side by side; None where it has one kind only."""
    if not summary.levels or summary.attack is None:
        return None
    level, attack = summary.levels[0], summary.attack
    radii = _radii(level)
    lines = [
        TogetherLine(name, {**attack.scope, **level.scope}[name], _shares(attack, level, name, radii))
        for name in dict.fromkeys([*level.defences, *attack.defences])
    ]
    heads = ["clean", *attack.heads, *(f"certified r = {number_key(radius)}" for radius in radii), "abstained"]
    title = f"{attack.name}, noise σ = {number_key(level.sigma)}, {level.images} images"
    return Together(title, heads, lines, _notes(level, attack, any(line.scope != "model" for line in lines)))


def together_markdown(found: Together) -> str:
    """The table with its notes."""
    lines = [
        f"**Clean, attacked and certified**: {found.title}",
        "",
        *table(["defence", "scope", *found.heads], map(_cells, found.lines)),
        "",
        "\n\n".join(found.notes),
    ]
    return "\n".join(lines) + "\n"


def _cells(line: TogetherLine) -> list[str]:
    shares = ("-" if part is None else percent(part) for part in line.shares)
    return [marked(line.defence, line.scope), line.scope, *shares]


def _radii(level: CertifiedSummary) -> list[float]:
    """0, the middle radius and sigma, as far as they are in the grid."""
    wanted = {0.0, level.middle_radius, level.sigma}
    return [radius for radius in level.radii if radius in wanted]


def _shares(
    attack: AttackedSummary, level: CertifiedSummary, name: str, radii: Sequence[float]
) -> list[Interval | None]:
    robust, certified = attack.robust_accuracy.get(name, {}), level.certified_accuracy.get(name, {})
    return [
        level.clean_accuracy.get(name) or attack.clean_accuracy.get(name),
        *(robust.get(title) for title in attack.attacks),
        *(certified.get(radius) for radius in radii),
        level.abstained.get(name),
    ]


def _notes(level: CertifiedSummary, attack: AttackedSummary, tuned: bool) -> list[str]:
    notes = [
        "Clean and robust are of the classifier without noise; that no attack broke an image proves nothing. "
        "Certified is of the smoothed classifier: right, and proved to stay so within an l2 radius r. "
        "Shares in %, with exact 95 % intervals. " + NOTICE_SENTENCE
    ]
    if attack.images != level.images:
        notes.append(f"Attacked: {attack.images} images, certified: {level.images}.")
    if tuned:
        elsewhere = attack.sigma is not None and attack.sigma != level.sigma
        notes.append(
            f"{DAGGER} tuned on input: attacked and certified with the prompt or tower frozen as tuned on that image"
            + (f", attacked as tuned at σ = {attack.sigma:g}." if elsewhere else ".")
        )
    return notes
