"""Certified accuracy of every defence, a noise level after another: tables, curves, and warnings."""

from collections.abc import Mapping, Sequence
from typing import Any

from medrobust.results.curve import curve_svg
from medrobust.results.markdown import DAGGER, cell_text, marked, table
from medrobust.results.page import NOTICE_SENTENCE, inline, render
from medrobust.results.report import RunReport, Section
from medrobust.results.rows.certified import CertifiedRow
from medrobust.results.sections.findings import finding_lines, headings
from medrobust.results.sections.warnings import abstentions, constant_answers, one_class
from medrobust.results.shares import holds_at, share
from medrobust.results.summary import CertifiedSummary
from medrobust.results.tables import grouped
from medrobust.words import number_key, percent, radius_text


def certificates(report: RunReport) -> Section:
    """The tables and curves of all noise levels; empty where nothing was certified."""
    levels, groups = report.summary.levels, grouped(report.rows)
    if not levels:
        return Section()
    parts = [_part(report, place, groups.get(level.sigma, {})) for place, level in enumerate(levels)]
    return Section(
        render("sections/certificates.html.j2", parts=parts),
        markdown_table(levels),
        {"certified_accuracy": curve_svg(levels, report.rows)},
    )


def _part(report: RunReport, place: int, rows: Mapping[str, Sequence[CertifiedRow]]) -> dict[str, Any]:
    level = report.summary.levels[place]
    findings = finding_lines(level)
    return {
        "block": level,
        "best": _best(level),
        "curve": inline(curve_svg([level], report.rows), f"curve{place}-"),
        "classes": [] if findings else _by_class(report, rows, level.middle_radius),
        "findings": findings,
        "finding_heads": headings(findings),
        "abstentions": abstentions(level, rows),
        "constant": [*constant_answers(level, rows), *one_class(rows)],
    }


def _best(level: CertifiedSummary) -> dict[float, float]:
    """The highest certified accuracy at each radius among the defences of scope `model`: the page sets it in bold."""
    sound = [name for name in level.defences if level.scope[name] == "model"]
    return {
        radius: max((level.certified_accuracy[name][radius].value for name in sound), default=0.0) or 2.0
        for radius in level.radii
    }


def _by_class(report: RunReport, rows: Mapping[str, Sequence[CertifiedRow]], radius: float) -> list[dict[str, Any]]:
    labels = sorted({row.label for members in rows.values() for row in members})
    return [
        {
            "name": report.class_name(label),
            "shares": {
                defence: share(
                    sum(holds_at(row, radius) for row in members if row.label == label),
                    sum(row.label == label for row in members),
                )
                for defence, members in rows.items()
            },
        }
        for label in labels
    ]


def markdown_table(levels: Sequence[CertifiedSummary]) -> str:
    """One table a noise level: a row a defence, with its scope and exact 95 % intervals."""
    tables = "\n".join(_table(level) + _findings_table(level) for level in levels)
    notes = [
        "Shares of all images in %, with exact 95 % intervals; radii are l2 in pixels of [0, 1]. " + NOTICE_SENTENCE
    ]
    if any(level.tuned for level in levels):
        notes.append(
            f"{DAGGER} tuned on input: the radius speaks of the prompt or tower frozen as tuned on that image."
        )
    return tables + "\n" + "\n".join(f"{note}\n" for note in notes)


def _table(level: CertifiedSummary) -> str:
    heads = [f"r = {number_key(radius)}" for radius in level.radii]
    header = ["defence", "scope", "clean", *heads, "abstained", "certified wrong", "ACR", "samples"]
    title = f"**σ = {number_key(level.sigma)}**, {level.images} images"
    return "\n".join([title, "", *table(header, [_cells(level, name) for name in level.defences])]) + "\n"


def _findings_table(level: CertifiedSummary) -> str:
    lines = finding_lines(level)
    if not lines:
        return ""
    header = ["finding", "defence", "images with it", *headings(lines)]
    rows = [
        [
            cell_text(line.finding),
            marked(line.defence, line.scope),
            f"{line.there} of {line.images}",
            *("-" if part is None else percent(part) for part in line.shares.values()),
        ]
        for line in lines
    ]
    return "\nThe table above counts an image where all of its findings are. Each finding by itself:\n\n" + "\n".join(
        [*table(header, rows), ""]
    )


def _cells(level: CertifiedSummary, name: str) -> list[str]:
    return [
        marked(name, level.scope[name]),
        level.scope[name],
        percent(level.clean_accuracy[name]),
        *(percent(level.certified_accuracy[name][radius]) for radius in level.radii),
        percent(level.abstained[name]),
        percent(level.certified_wrong[name]),
        radius_text(level.average_certified_radius[name]),
        f"{level.mean_samples[name]:,.0f}",
    ]
