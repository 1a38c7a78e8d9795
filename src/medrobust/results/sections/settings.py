"""Model, data and every setting of a run."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from medrobust.results.page import render
from medrobust.results.report import RunReport, Section


def settings(report: RunReport) -> Section:
    """Names, licences and sources; experiment and environment as they are on disk."""
    record = report.record
    return Section(render(
        "sections/settings.html.j2",
        model=replace(record.model, source=record.model.source or record.model.name),
        task=record.task,
        settings=[("Experiment", list(_flat(report.experiment))), ("Environment", list(_flat(record.environment)))],
    ))  # fmt: skip


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested settings as dotted names and texts, in their order."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{name}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{name}", str(value)
