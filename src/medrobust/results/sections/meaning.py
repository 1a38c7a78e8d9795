"""The promise of a certificate and its limits in words, and a few certified images."""

from typing import Any

from medrobust.results.beside import Example
from medrobust.results.page import render
from medrobust.results.report import RunReport, Section


def meaning(report: RunReport) -> Section:
    """The promise in words where a run has certificates; images with their certified answers where it kept some."""
    levels, html = report.summary.levels, ""
    if levels:
        html = render(
            "sections/meaning.html.j2",
            tuned=any(level.tuned for level in levels),
            alphas=sorted({row.alpha for row in report.rows}),
            images=report.summary.images,
            expected=levels[0].expected_false_certificates,
        )
        html += "\n"
    if report.examples:
        html += render("sections/examples.html.j2", gallery=[_shown(report, one) for one in report.examples])
    return Section(html)


def _shown(report: RunReport, example: Example) -> dict[str, Any]:
    scopes = report.summary.scope
    answers = [
        {
            "defence": defence,
            "tuned": scopes.get(defence, "model") != "model",
            "answer": None if given.answer is None else report.class_name(given.answer),
            "radius": given.radius,
        }
        for defence, given in example.answers.items()
    ]
    label = report.class_name(example.label)
    return {"image": example.png_base64, "label": label, "sigma": example.sigma, "answers": answers}
