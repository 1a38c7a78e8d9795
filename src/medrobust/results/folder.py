"""A run folder's last step: rows to summary.json, tables, curves and page. Needs nothing but the folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from medrobust.errors import RunError
from medrobust.files import replace_text
from medrobust.results.attacked import summarise_attack
from medrobust.results.beside import AttackNotes, Example, read_audit, read_examples, read_notes, record_from
from medrobust.results.findings import joint
from medrobust.results.page import page
from medrobust.results.report import RunReport
from medrobust.results.rows.attacked import AttackedRow, read_attacked
from medrobust.results.rows.certified import CertifiedRow, read_rows
from medrobust.results.sections import SECTIONS
from medrobust.results.summary import RunSummary, write_summary
from medrobust.results.tables import summarise
from medrobust.results.values import to_json
from medrobust.smoothing.grid import RADII


def publish(
    folder: Path, radii: Sequence[float], environment: Mapping[str, Any], *, examples: Sequence[Example] = ()
) -> RunSummary:
    """Write summary.json, results.md, the curves and report.html; the summary comes back.

    `environment` is what environment.json holds. Raises RunError where there are no rows or the folder cannot be
    written.
    """
    rows, attacked = read_folder(folder)
    notes = read_notes(folder) if attacked else None
    summary = summarise_run(rows, attacked, radii, notes)
    write_summary(folder / "summary.json", summary)
    if examples:
        kept = json.dumps(to_json(list(examples))) + "\n"
        replace_text(folder / "examples.json", kept)
    write_report(folder, RunReport(
        summary=summary,
        rows=joint(rows),
        experiment=yaml.safe_load((folder / "experiment.yaml").read_text(encoding="utf-8")),
        record=record_from(environment),
        examples=examples,
        audit=read_audit(folder),
        notes=notes,
    ))  # fmt: skip
    return summary


def republish(folder: Path) -> RunSummary:
    """The same from what the folder holds, for instance after a run was stopped half-way.

    Raises RunError where it is not a run folder.
    """
    try:
        environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        record_from(environment)
        experiment = yaml.safe_load((folder / "experiment.yaml").read_bytes())
        certify = experiment.get("certify") or experiment  # of version 1, which certifies and has no parts
        radii = [float(radius) for radius in certify.get("radii", RADII)]
        examples = read_examples(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise RunError(f"{folder} is not a run folder: {error}") from error
    return publish(folder, radii, environment, examples=examples)


def read_folder(folder: Path) -> tuple[list[CertifiedRow], list[AttackedRow]]:
    """Certificates and attacked images of a run; one of them may be missing. Raises RunError."""
    certified, attacked = folder / "certified.jsonl", folder / "attacked.jsonl"
    there = read_attacked(attacked) if attacked.exists() else []
    return (read_rows(certified) if certified.exists() or not there else []), there


def summarise_run(
    rows: Sequence[CertifiedRow],
    attacked: Sequence[AttackedRow],
    radii: Sequence[float],
    notes: AttackNotes | None = None,
) -> RunSummary:
    """The numbers of certificates, of attacked images, or of both.

    Raises RunError where there are neither, or where rows of several runs are mixed.
    """
    if not attacked:
        return RunSummary(summarise(rows, radii))
    attack = summarise_attack(attacked)
    if notes:
        attack = replace(attack, titles=notes.titles, flags=notes.all_flags)
    return RunSummary(summarise(rows, radii) if rows else (), attack)


def write_report(folder: Path, report: RunReport) -> Path:
    """Write report.html, results.md, and the curves as SVG into a run folder; the page's path comes back.

    The same report gives the same bytes. Raises RunError where the folder cannot be written.
    """
    sections = [make(report) for make in SECTIONS]
    for one in sections:
        for name, svg in one.figures.items():
            replace_text(folder / f"{name}.svg", svg)
    replace_text(folder / "results.md", "\n".join(one.markdown for one in sections if one.markdown))
    levels, task = report.summary.levels, report.record.task
    kind = "certified robustness" if levels else "robustness"
    name, count = Markup("<b>{}</b>").format(report.record.model.name), len(task.classes)
    noise = " · noise σ " + ", ".join(f"{level.sigma:g}" for level in levels) if levels else ""
    path = folder / "report.html"
    replace_text(path, page(
        title=f"Robustness report: {task.title}, {report.record.model.name}",
        eyebrow=f"{kind} report",
        heading=task.title,
        under=f"Model {name} · {report.summary.images} images · {count} "
        f"{'findings' if task.absent else 'classes'}{noise}",
        sections=[one.html for one in sections],
        source="<code>certified.jsonl</code>; every radius on this page can be recomputed from that file"
        if levels else "<code>attacked.jsonl</code>",
    ))  # fmt: skip
    return path
