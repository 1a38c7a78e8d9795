"""What an audit found, as lines of a table: for the page, for Markdown, for the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from medrobust.results.report.markdown import DAGGER, percent, table_line

Audit = Mapping[str, Any]  # as in audit.json


class Check(NamedTuple):
    """One line: what was done, to which defence, how often, how often it failed, and what else was seen."""

    check: str
    defence: str
    scope: str
    tested: int
    failed: int | None  # None: a number to read, not a promise to keep
    seen: str


def checks(audit: Audit) -> list[Check]:
    """All that was checked so far, in the order in which it was done."""
    records = audit.get("records")
    lines = []
    if records:
        failed = len({(one["defence"], one["id"], one["sigma"]) for one in records["findings"]})
        lines.append(
            Check(
                "radius follows from its record",
                "all",
                "",
                records["tested"],
                failed,
                "and the claim, tested by other means",
            )
        )
    return [*lines, *_attacks(audit.get("attacks", {})), *_redraws(audit), *_borders(audit)]


def all_findings(audit: Audit) -> list[Mapping[str, Any]]:
    """What should not be, over all checks."""
    return [
        one for name in ("records", "attacks", "redraws", "borders") for one in audit.get(name, {}).get("findings", [])
    ]


def verdict(audit: Audit) -> str:
    """The outcome in a sentence."""
    found = len(all_findings(audit))
    unfinished = "" if audit["complete"] else " The audit was interrupted: this is what was done so far."
    if audit["settings"]["records_only"]:
        unfinished += " Records alone were checked: nothing was attacked or drawn again."
    told = "Nothing was found." if not found else f"{found} finding{'s' if found > 1 else ''}: see below."
    return told + unfinished


def audit_markdown(audit: Audit) -> str:
    """The table, the verdict, and every finding in a line of its own."""
    header = ["check", "defence", "tested", "failed", "seen"]
    lines = [
        f"**Audit** of {audit['rows']} certificates. {verdict(audit)}",
        "",
        table_line(header),
        table_line(["---", "---", "---:", "---:", "---"]),
        *(table_line(_cells(one)) for one in checks(audit)),
        *([""] if all_findings(audit) else []),
        *(f"* {sentence_of(one)}" for one in all_findings(audit)),
    ]
    return "\n".join(lines) + "\n"


def sentence_of(found: Mapping[str, Any]) -> str:
    """A finding with what it is about."""
    about = "" if found["id"] is None else f", {found['id']} at sigma {found['sigma']:g}"
    return f"{found['defence']}{about}: {found['sentence']}"


def _cells(one: Check) -> list[str]:
    failed = "-" if one.failed is None else str(one.failed)
    dagger = f" {DAGGER}" if one.scope == "tuned on input" else ""
    return [one.check, one.defence + dagger, str(one.tested), failed, one.seen]


def _attacks(block: Audit) -> Iterator[Check]:
    for name, part in block.get("defences", {}).items():
        seen = f"lowest share of votes {100 * part['lowest_share']:.1f} %"
        frozen = "" if part["scope"] == "model" else ", as tuned"
        check = f"SmoothAdv inside the radius{frozen}"
        yield Check(check, name, part["scope"], part["attempts"], part["broken"], seen)
        if part["retuned"]:
            told = f"another class in {percent(part['retuned']['changed'])} %, abstains in " + (
                f"{percent(part['retuned']['abstains'])} %: no promise covers this"
            )
            asked = part["retuned"]["same"]["total"]
            yield Check("the same points, tuned again there", name, part["scope"], asked, None, told)


def _redraws(audit: Audit) -> Iterator[Check]:
    for name, part in audit.get("redraws", {}).get("defences", {}).items():
        scope = _scope(audit, name)
        yield Check("drawn again, own seed", name, scope, part["replayed"], part["differ"], "must be identical")
        failed = sum(one["defence"] == name and one["id"] is None for one in audit["redraws"]["findings"])
        seen = f"{part['contradicted']} contradicted by a large fresh count"
        yield Check("radius against a large count", name, scope, part["redrawn"], failed, seen)


def _borders(audit: Audit) -> Iterator[Check]:
    for name, part in audit.get("borders", {}).get("defences", {}).items():
        failed = sum(one["defence"] == name for one in audit["borders"]["findings"])
        seen = (
            f"{part['certified']} of {part['tries']} tries at {part['images']} images certified at alpha "
            f"{part['alpha']:g}; {part['allowed']:.1f} are allowed on average"
        )
        yield Check("stated alpha at the border of two classes", name, _scope(audit, name), part["tries"], failed, seen)


def _scope(audit: Audit, defence: str) -> str:
    return str(audit.get("scopes", {}).get(defence, ""))
