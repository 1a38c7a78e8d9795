"""A run folder's last step: rows to summary.json, tables, curves and page. Needs nothing but the folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medrobust.errors import RunError
from medrobust.results.records import read_rows
from medrobust.results.report.html import write_report
from medrobust.results.tables import summarise, write_summary


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
    rows = read_rows(folder / "certified.jsonl")
    summary = summarise(rows, radii)
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
    )
    return summary


def read_audit(folder: Path) -> dict[str, Any] | None:
    """What `medrobust audit` has found in this run, or None; raises RunError where it cannot be read."""
    path = folder / "audit.json"
    if not path.exists():
        return None
    try:
        audit = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise RunError(f"{path} cannot be read ({problem}); run `medrobust audit` on the folder again") from problem
    if not isinstance(audit, dict) or audit.get("schema_version") != 1:
        raise RunError(f"{path} is of another version; run `medrobust audit` on the folder again")
    return dict(audit)


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
