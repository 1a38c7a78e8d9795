"""The material of a report, and the form of its sections."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medrobust.results.audit_summary import AuditSummary
from medrobust.results.beside import AttackNotes, Example, RunRecord
from medrobust.results.rows.certified import CertifiedRow
from medrobust.results.summary import RunSummary


@dataclass(frozen=True)
class RunReport:
    """The data of a report's sections. Rows are one an image, also where it has several findings.

    `experiment` holds every setting of experiment.yaml.
    """

    summary: RunSummary
    rows: Sequence[CertifiedRow]
    experiment: Mapping[str, Any]
    record: RunRecord
    examples: Sequence[Example] = ()
    audit: AuditSummary | None = None
    notes: AttackNotes | None = None

    def class_name(self, label: int | str) -> str:
        """The class of a number, or a text as it is."""
        classes = self.record.task.classes
        if isinstance(label, str):
            return label
        return classes[label] if 0 <= label < len(classes) else f"class {label}"


@dataclass(frozen=True)
class Section:
    """A part of a report: for the page, for Markdown, and figures by file name, as SVG. Empty where there is none."""

    html: str = ""
    markdown: str = ""
    figures: Mapping[str, str] = field(default_factory=dict)


MakeSection = Callable[[RunReport], Section]
