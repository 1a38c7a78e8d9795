"""The result of a run in a few sentences."""

from collections.abc import Sequence

from medrobust.errors import RunError
from medrobust.results.page import dashed, render
from medrobust.results.report import RunReport, Section
from medrobust.results.rows.certified import CertifiedRow
from medrobust.results.sections.attacked import attack_headline
from medrobust.results.sections.warnings import constant_answers
from medrobust.results.summary import CertifiedSummary
from medrobust.results.tables import grouped, paired_gain
from medrobust.smoothing.bounds import Interval


def headline(report: RunReport) -> Section:
    """The certificates of the first noise level in sentences, or the attacks where nothing was certified."""
    levels, attack = report.summary.levels, report.summary.attack
    told = certified_headline(levels[0], report.rows) if levels else attack_headline(attack) if attack else []
    return Section(render("sections/headline.html.j2", headline=told))


def certified_headline(level: CertifiedSummary, rows: Sequence[CertifiedRow]) -> list[str]:
    """The result in two to five sentences: the baseline (first defence), the best sound one, the best tuned one.

    A tuned one that answers nearly every noisy copy alike is named as such and not among the best.
    """
    radius, sigma = level.middle_radius, level.sigma
    shares = {name: parts[radius] for name, parts in level.certified_accuracy.items()} if radius else {}
    if not shares:
        return ["No radius above 0 was asked for that these trials could certify."]
    baseline, *others = level.defences
    told = [_of_findings(level)] if level.findings else []
    told += [
        f"At radius {radius:g} (noise σ = {sigma:g}), {_named(level, baseline)} keeps {_percent(shares[baseline])} of "
        f"{level.images} images both right and certified: "
        f"no change of the pixels with an l2 norm below {radius:g} alters the answer."
    ]
    empty = [name for name, _ in constant_answers(level, grouped(rows).get(sigma, {})) if name in others]
    for scope in ("model", "tuned on input"):
        rivals = [name for name in others if level.scope[name] == scope and name not in empty]
        if rivals:
            best = max(rivals, key=lambda name: shares[name].value)
            change = _gain(rows, best, baseline, sigma, radius, rivals=len(rivals))
            told.append(f"{_named(level, best)} keeps {_percent(shares[best])}{change}.")
    if empty:
        names = " and ".join(f"“{name}”" for name in empty)
        told.append(f"Of {names} (†, tuned on each input) the radii say little, for the reason told below.")
    return told


def _of_findings(level: CertifiedSummary) -> str:
    count = len(next(iter(level.findings.values())))
    return (
        f"Each of {count} findings has a certificate of its own at alpha / {count}; an image counts as right where all "
        "of its answers are."
    )


def _percent(part: Interval) -> str:
    return f"{100 * part.value:.1f} % ({dashed(part.low, part.high)})"


def _named(level: CertifiedSummary, name: str) -> str:
    return f"“{name}”" + ("" if level.scope[name] == "model" else " (†, tuned on each input)")


def _gain(rows: Sequence[CertifiedRow], name: str, baseline: str, sigma: float, radius: float, *, rivals: int) -> str:
    try:
        gain = paired_gain(rows, name, baseline, sigma, radius)
    except RunError:  # an interrupted run may not have reached an image of both
        return ""
    p_value = min(1.0, gain.p_value * rivals)  # Bonferroni: it was picked as the best of its rivals
    chance = "" if p_value < 0.05 else "; a difference of this size may be chance"
    size = "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"
    many = f", corrected for {rivals} comparisons" if rivals > 1 else ""
    return f", {gain.points:+.1f} points against “{baseline}” (exact McNemar p {size}{many}{chance})"
