"""Checks of an audit as lines of a table: for the page, for Markdown, for the terminal."""

from collections.abc import Iterator
from typing import NamedTuple

from medrobust.results.audit_summary import AttacksChecked, AuditSummary, BordersChecked, RedrawsChecked
from medrobust.results.markdown import DAGGER, table_line
from medrobust.results.page import render
from medrobust.results.report import RunReport, Section
from medrobust.words import percent


class CheckLine(NamedTuple):
    """One line: the check, the defence, how often it was made and failed, and remarks."""

    check: str
    defence: str
    scope: str
    tested: int
    failed: int | None  # None: a number to read, not a promise to keep
    seen: str


def audited(report: RunReport) -> Section:
    """The table of checks, the verdict and every finding; empty where a run was not audited."""
    audit = report.audit
    if audit is None:
        return Section()
    html = render(
        "sections/audited.html.j2", audit=audit, verdict=verdict(audit), checks=check_lines(audit)
    )  # fmt: skip
    return Section(html, audit_markdown(audit))


def check_lines(audit: AuditSummary) -> list[CheckLine]:
    """The checks made so far, in their order."""
    lines = []
    if audit.records:
        failed = len({(one.defence, one.id, one.sigma) for one in audit.records.findings})
        told = "and the claim, tested by other means"
        lines.append(CheckLine("radius follows from its record", "all", "", audit.records.tested, failed, told))
    if audit.attacks:
        lines += _attacks(audit.attacks)
    if audit.redraws:
        lines += _redraws(audit.redraws, audit)
    if audit.borders:
        lines += _borders(audit.borders, audit)
    return lines


def verdict(audit: AuditSummary) -> str:
    """The outcome in a sentence."""
    found = len(audit.findings)
    unfinished = "" if audit.complete else " The audit was interrupted: this is what was done so far."
    if audit.records_only:
        unfinished += " Records alone were checked: nothing was attacked or drawn again."
    told = "Nothing was found." if not found else f"{found} finding{'s' if found > 1 else ''}: see below."
    return told + unfinished


def audit_markdown(audit: AuditSummary) -> str:
    """The table, the verdict, and every finding in a line of its own."""
    lines = [
        f"**Audit** of {audit.rows} certificates. {verdict(audit)}",
        "",
        table_line(["check", "defence", "tested", "failed", "seen"]),
        table_line(["---", "---", "---:", "---:", "---"]),
        *(table_line(_cells(one)) for one in check_lines(audit)),
        *([""] if audit.findings else []),
        *(f"* {one}" for one in audit.findings),
    ]
    return "\n".join(lines) + "\n"


def _cells(one: CheckLine) -> list[str]:
    failed = "-" if one.failed is None else str(one.failed)
    dagger = f" {DAGGER}" if one.scope == "tuned on input" else ""
    return [one.check, one.defence + dagger, str(one.tested), failed, one.seen]


def _attacks(block: AttacksChecked) -> Iterator[CheckLine]:
    for name, part in block.defences.items():
        seen = f"lowest share of votes {100 * part.lowest_share:.1f} %"
        frozen = "" if part.scope == "model" else ", as tuned"
        check = f"SmoothAdv inside the radius{frozen}"
        yield CheckLine(check, name, part.scope, part.attempts, part.broken, seen)
        if part.retuned:
            told = f"another class in {percent(part.retuned.changed)} %, abstains in " + (
                f"{percent(part.retuned.abstains)} %: no promise covers this"
            )
            asked = part.retuned.same.total
            yield CheckLine("the same points, tuned again there", name, part.scope, asked, None, told)


def _redraws(block: RedrawsChecked, audit: AuditSummary) -> Iterator[CheckLine]:
    for name, part in block.defences.items():
        scope = audit.scopes.get(name, "")
        yield CheckLine("drawn again, own seed", name, scope, part.replayed, part.differ, "must be identical")
        failed = sum(one.defence == name and one.id is None for one in block.findings)
        seen = f"{part.contradicted} contradicted by a large fresh count"
        yield CheckLine("radius against a large count", name, scope, part.redrawn, failed, seen)


def _borders(block: BordersChecked, audit: AuditSummary) -> Iterator[CheckLine]:
    for name, part in block.defences.items():
        failed = sum(one.defence == name for one in block.findings)
        seen = (
            f"{part.certified} of {part.tries} tries at {part.images} images certified at alpha "
            f"{part.alpha:g}; {part.allowed:.1f} are allowed on average"
        )
        check, scope = "stated alpha at the border of two classes", audit.scopes.get(name, "")
        yield CheckLine(check, name, scope, part.tries, failed, seen)
