"""Accuracy under attack: for the page, for Markdown, for the terminal."""

from typing import Any

from medrobust.results.beside import BrokenImage
from medrobust.results.curve import attack_curve_svg
from medrobust.results.markdown import DAGGER, marked, table
from medrobust.results.page import NOTICE_SENTENCE, dashed, inline, render
from medrobust.results.report import RunReport, Section
from medrobust.results.summary import AttackedSummary
from medrobust.smoothing.bounds import Interval
from medrobust.words import eps_text, percent


def attacked(report: RunReport) -> Section:
    """Table, curve, bars, flags and pictures; empty where nothing was attacked."""
    attack = report.summary.attack
    if attack is None:
        return Section()
    curve = attack_curve_svg(attack)
    pictures = report.notes.pictures if report.notes else {}
    html = render(
        "sections/attacked.html.j2",
        attack=attack,
        lead=" ".join(attack_headline(attack)) if report.summary.levels else "",
        rows=_rows(attack),
        curve=inline(curve, "robust-") if curve else None,
        bars=[_bars(attack, name) for name in attack.defences],
        titles=attack_titles(attack),
        flags=attack_flags(attack),
        pictures=[_shown(report, name, one) for name, shown in pictures.items() for one in shown],
    )
    return Section(html, attacked_markdown(attack), {"robust_accuracy": curve} if curve else {})


def attack_headline(attack: AttackedSummary) -> list[str]:
    """The result at the smallest eps in a sentence or two: the baseline (first defence), and the best other one."""
    baseline, *others = attack.defences
    told = [f"Under {attack.attacks[0]}, {_kept(attack, baseline)} of {attack.images} images right."]
    if others:
        best = max(others, key=lambda name: _smallest(attack, name).value)
        told.append(f"{_kept(attack, best)}.")
    return told


def attack_titles(attack: AttackedSummary) -> list[str]:
    """The name of the set: AutoAttack's standard, or the reason against it; by defence where they differ."""
    titles = {name: title[:1].upper() + title[1:] for name, title in attack.titles.items()}
    different = list(dict.fromkeys(titles.values()))
    if len(different) < 2:
        return different
    return [f"{title} ({', '.join(name for name in titles if titles[name] == title)})" for title in different]


def attack_flags(attack: AttackedSummary) -> list[str]:
    """Signs that these numbers are too good, each with its defence."""
    return [f"{name}: {sentence}" for name, flags in attack.flags.items() for sentence in flags]


def broken_text(attack: AttackedSummary, defence: str, title: str) -> str:
    """Attacks that broke images which those before them had left, with counts, at that eps or a smaller one."""
    counts = attack.broken_by[defence].get(title, {})
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "-"


def attacked_markdown(attack: AttackedSummary) -> str:
    """The table, the name of the set, and every flag in a line of its own."""
    levels = [eps_text(eps) for eps in attack.eps]
    robust, by = (["robust"], "broken by") if len(levels) < 2 else (
        [f"robust {level}" for level in levels], f"broken by, at {levels[-1]}"
    )  # fmt: skip
    head, ruler, *rows = table(["defence", "scope", "clean", *robust, by], (_cells(attack, n) for n in attack.defences))
    tuned = f"{DAGGER} tuned on input: attacked with the prompt or tower frozen as tuned on the clean image."
    lines = [
        f"**{attack.name} {attack.norm} {', '.join(levels)}**, {attack.images} images",
        "",
        head,
        ruler.removesuffix("---: |") + "--- |",  # its last column is text
        *rows,
        "",
        *(f"{title}." for title in attack_titles(attack)),
        f"Shares of all images in %, with exact 95 % intervals. An attack that fails proves nothing. {NOTICE_SENTENCE}",
        *([tuned] if attack.tuned else []),
        *([""] if attack_flags(attack) else []),
        *(f"* {sentence}" for sentence in attack_flags(attack)),
    ]
    return "\n".join(lines) + "\n"


def _rows(attack: AttackedSummary) -> list[dict[str, Any]]:
    return [
        {
            "defence": name,
            "scope": attack.scope[name],
            "attack": title,
            "share": share,
            "broken": broken_text(attack, name, title),
        }
        for name, attacks in attack.robust_accuracy.items()
        for title, share in attacks.items()
    ]


def _shown(report: RunReport, defence: str, one: BrokenImage) -> dict[str, Any]:
    def answer(number: int | None) -> str:
        return "no finite answer" if number is None else report.class_name(number)

    told = {
        "clean": f"clean: {answer(one.clean)}",
        "difference": f"change, {one.factor:,.1f} times as strong",
        "attacked": f"attacked: {answer(one.answer)}",
    }
    return {
        "defence": defence,
        "label": answer(one.label),
        "broken_by": one.broken_by,
        "eps": None if one.eps is None else eps_text(one.eps),
        "distance": one.distance,
        "frames": [(one.pictures[name], sentence) for name, sentence in told.items()],
    }


def _smallest(attack: AttackedSummary, defence: str) -> Interval:
    return attack.robust_accuracy[defence][attack.attacks[0]]


def _bars(attack: AttackedSummary, defence: str) -> dict[str, Any]:
    """Clean accuracy and that at each eps, as far as the run has come."""
    robust = attack.robust_accuracy[defence]
    levels = {eps_text(eps): title for eps, title in zip(attack.eps, attack.attacks, strict=True)}
    return {
        "defence": defence,
        "tuned": attack.scope[defence] != "model",
        "shares": {
            "clean": attack.clean_accuracy[defence],
            **{at: robust[title] for at, title in levels.items() if title in robust},
        },
    }


def _kept(attack: AttackedSummary, name: str) -> str:
    share, clean = _smallest(attack, name), attack.clean_accuracy[name]
    tuned = "" if attack.scope[name] == "model" else f" ({DAGGER}, as tuned)"
    interval = dashed(share.low, share.high)
    return f"“{name}”{tuned} keeps {100 * share.value:.1f} % ({interval}; clean {100 * clean.value:.1f} %)"


def _cells(attack: AttackedSummary, name: str) -> list[str]:
    robust = attack.robust_accuracy[name]
    return [
        marked(name, attack.scope[name]),
        attack.scope[name],
        percent(attack.clean_accuracy[name]),
        *(percent(robust[title]) if title in robust else "-" for title in attack.attacks),
        broken_text(attack, name, attack.attacks[-1]),
    ]
