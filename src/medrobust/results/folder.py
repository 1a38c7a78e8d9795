"""A run folder's last step: rows to summary.json, tables, curves and page. Needs nothing but the folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medrobust.errors import RunError
from medrobust.results.report.html import write_report
from medrobust.results.rows.attacked import AttackedRow, read_attacked, summarise_attack
from medrobust.results.rows.certified import CertifiedRow, read_rows
from medrobust.results.tables import SCHEMA_VERSION, Summary, summarise, write_summary


def publish(
    folder: Path,
    radii: Sequence[float],
    environment: Mapping[str, Any],
    *,
    examples: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Write summary.json, results.md, certified_accuracy.svg and report.html; the summary comes back.

    Raises RunError where there are no rows or the folder cannot be written.
    """
    rows, attacked = read_folder(folder)
    notes = read_notes(folder) or {} if attacked else {}
    summary = summarise_run(rows, attacked, radii, notes)
    write_summary(folder / "summary.json", summary)
    if examples:
        (folder / "examples.json").write_text(json.dumps(list(examples)) + "\n", encoding="utf-8")
    write_report(
        folder,
        summary=summary,
        rows=rows,
        experiment=yaml.safe_load((folder / "experiment.yaml").read_text(encoding="utf-8")),
        environment=environment["environment"],
        task=environment["task"],
        model={"source": environment["model"]["name"], **environment["model"]},
        examples=list(examples),
        audit=read_audit(folder),
        notes=notes,
    )
    return summary


def read_folder(folder: Path) -> tuple[list[CertifiedRow], list[AttackedRow]]:
    """Certificates and attacked images of a run; one of them may be missing. Raises RunError."""
    certified, attacked = folder / "certified.jsonl", folder / "attacked.jsonl"
    there = read_attacked(attacked) if attacked.exists() else []
    return (read_rows(certified) if certified.exists() or not there else []), there


def summarise_run(
    rows: Sequence[CertifiedRow], attacked: Sequence[AttackedRow], radii: Sequence[float], notes: Mapping[str, Any]
) -> Summary:
    """What summary.json holds, of certificates, of attacked images, or of both.

    Raises RunError where there are neither, or where rows of several runs are mixed.
    """
    if not attacked:
        return summarise(rows, radii)
    found = summarise_attack(attacked)
    found["attack"] |= {"titles": notes.get("titles", {}), "flags": _flags(notes)}
    if rows:
        return {**summarise(rows, radii), **found}
    shared = {name: found["attack"][name] for name in ("images", "defences", "scope", "clean_accuracy")}
    return {"schema_version": SCHEMA_VERSION, "sigmas": [], "by_sigma": {}, **shared, **found}


def _flags(notes: Mapping[str, Any]) -> dict[str, list[str]]:
    over_all = notes.get("black_box", {})
    flags = {name: [*said, over_all.get(name)] for name, said in notes.get("flags", {}).items()}
    return {name: [sentence for sentence in said if sentence] for name, said in flags.items()}


def read_audit(folder: Path) -> dict[str, Any] | None:
    """What `medrobust audit` has found in this run, or None; raises RunError where it cannot be read."""
    return _read_beside(folder / "audit.json", "audit")


def read_notes(folder: Path) -> dict[str, Any] | None:
    """What `medrobust attack` says of this run beside its rows, or None; raises RunError where it cannot be read."""
    return _read_beside(folder / "attacked.json", "attack")


def _read_beside(path: Path, command: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise RunError(f"{path} cannot be read ({problem}); run `medrobust {command}` on the folder again") from problem
    if not isinstance(found, dict) or found.get("schema_version") != 1:
        raise RunError(f"{path} is of another version; run `medrobust {command}` on the folder again")
    return dict(found)


def republish(folder: Path) -> dict[str, Any]:
    """The same from what the folder holds, for instance after a run was stopped half-way.

    Raises RunError where it is no run folder.
    """
    try:
        environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        experiment = yaml.safe_load((folder / "experiment.yaml").read_text(encoding="utf-8"))
        shown = folder / "examples.json"
        examples = json.loads(shown.read_text(encoding="utf-8")) if shown.exists() else []
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{folder} is no run folder: {error}") from error
    return publish(folder, experiment["radii"], environment, examples=examples)
