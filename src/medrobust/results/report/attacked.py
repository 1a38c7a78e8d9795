"""What attacks did to a run's images: for the page, for Markdown, for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from medrobust.results.report.markdown import DAGGER, percent, plain, span, table_line
from medrobust.results.rows.attacked import attack_title
from medrobust.results.tables import Summary
from medrobust.words import eps_text

Notes = Mapping[str, Any]  # as in attacked.json


def attack_headline(summary: Summary) -> list[str]:
    """The result at the smallest eps in a sentence or two: the baseline (first defence), and the best other one."""
    part = summary["attack"]
    baseline, *others = part["defences"]
    told = [f"Under {_titles(part)[0]}, {_kept(summary, baseline)} of {part['images']} images right."]
    if others:
        best = max(others, key=lambda name: _smallest(summary, name)["value"])
        told.append(f"{_kept(summary, best)}.")
    return told


def attack_titles(summary: Summary) -> list[str]:
    """What the set may be called: AutoAttack's standard, or why not; by defence where they differ."""
    titles = {name: title[:1].upper() + title[1:] for name, title in summary["attack"]["titles"].items()}
    different = list(dict.fromkeys(titles.values()))
    if len(different) < 2:
        return different
    return [f"{title} ({', '.join(name for name in titles if titles[name] == title)})" for title in different]


def attack_flags(summary: Summary) -> list[str]:
    """Signs that these numbers are too good, each with its defence."""
    return [f"{name}: {sentence}" for name, flags in summary["attack"]["flags"].items() for sentence in flags]


def broken_text(summary: Summary, defence: str, title: str) -> str:
    """Which attacks broke how many images that those before them had left, at that eps or a smaller one."""
    counts = summary["attack"]["broken_by"][defence].get(title, {})
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "-"


def attacked_markdown(summary: Summary) -> str:
    """The table, what the set may be called, and every flag in a line of its own."""
    part = summary["attack"]
    tuned = any(scope != "model" for scope in part["scope"].values())
    levels = [eps_text(eps) for eps in part["eps"]]
    robust, by = (["robust"], "broken by") if len(levels) < 2 else (
        [f"robust {level}" for level in levels], f"broken by, at {levels[-1]}"
    )  # fmt: skip
    lines = [
        f"**{part['name']} {part['norm']} {', '.join(levels)}**, {part['images']} images",
        "",
        table_line(["defence", "scope", "clean", *robust, by]),
        table_line(["---", "---", "---:", *["---:"] * len(levels), "---"]),
        *(table_line(_cells(summary, name)) for name in part["defences"]),
        "",
        *(f"{title}." for title in attack_titles(summary)),
        "Shares of all images in %, with exact 95 % intervals. An attack that fails proves nothing. "
        "Not a medical device.",
        *(
            [f"{DAGGER} tuned on input: attacked with the prompt or tower frozen as tuned on the clean image."]
            if tuned
            else []
        ),
        *([""] if attack_flags(summary) else []),
        *(f"* {sentence}" for sentence in attack_flags(summary)),
    ]
    return "\n".join(lines) + "\n"


def attack_section(summary: Summary, notes: Notes, classes: Sequence[str]) -> dict[str, Any]:
    """What the page shows beside the table: headline, titles, flags, bars, and pictures."""
    part = summary["attack"]
    return {
        "headline": attack_headline(summary),
        "images": part["images"],
        "titles": attack_titles(summary),
        "flags": attack_flags(summary),
        "clean": part["clean_accuracy"],
        "broken": {
            name: {title: broken_text(summary, name, title) for title in _titles(part)} for name in part["defences"]
        },
        "bars": [_bars(summary, name) for name in part["defences"]],
        "tuned": any(scope != "model" for scope in part["scope"].values()),
        "pictures": [_shown(name, one, classes) for name, shown in notes.get("pictures", {}).items() for one in shown],
    }


def _shown(defence: str, one: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    return {
        "defence": defence,
        "label": _answer(one["label"], classes),
        "broken_by": one["broken_by"],
        "eps": eps_text(one["eps"]) if "eps" in one else None,  # not in older runs
        "distance": one["distance"],
        "frames": [
            (one["pictures"]["clean"], f"clean: {_answer(one['clean'], classes)}"),
            (one["pictures"]["difference"], f"change, {one['factor']:,.1f} times as strong"),
            (one["pictures"]["attacked"], f"attacked: {_answer(one['answer'], classes)}"),
        ],
    }


def _answer(number: int | None, classes: Sequence[str]) -> str:
    if number is None:
        return "no finite answer"
    return classes[number] if number < len(classes) else f"class {number}"


def _titles(part: Summary) -> list[str]:
    return [attack_title(part["name"], part["norm"], eps) for eps in part["eps"]]


def _smallest(summary: Summary, defence: str) -> dict[str, float]:
    return dict(summary["robust_accuracy"][defence][_titles(summary["attack"])[0]])


def _bars(summary: Summary, defence: str) -> dict[str, Any]:
    """Clean accuracy and that at each eps, as far as the run has come."""
    part, robust = summary["attack"], summary["robust_accuracy"][defence]
    shares = {eps_text(eps): robust.get(title) for eps, title in zip(part["eps"], _titles(part), strict=True)}
    return {
        "defence": defence,
        "tuned": part["scope"][defence] != "model",
        "shares": {"clean": part["clean_accuracy"][defence]} | {at: one for at, one in shares.items() if one},
    }


def _kept(summary: Summary, name: str) -> str:
    share, clean = _smallest(summary, name), summary["attack"]["clean_accuracy"][name]
    tuned = "" if summary["attack"]["scope"][name] == "model" else f" ({DAGGER}, as tuned)"
    interval = span(share).replace("-", "–")
    return f"“{name}”{tuned} keeps {100 * share['value']:.1f} % ({interval}; clean {100 * clean['value']:.1f} %)"


def _cells(summary: Summary, name: str) -> list[str]:
    part, robust = summary["attack"], summary["robust_accuracy"][name]
    scope, titles = part["scope"][name], _titles(part)
    return [
        plain(name) + (f" {DAGGER}" if scope != "model" else ""),
        scope,
        percent(part["clean_accuracy"][name]),
        *(percent(robust[title]) if title in robust else "-" for title in titles),
        broken_text(summary, name, titles[-1]),
    ]
