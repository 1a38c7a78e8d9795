"""The findings and counts of an audit, typed, as in audit.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medrobust.results.rows.certified import Scope
from medrobust.results.values import LEFT_OUT, to_json
from medrobust.smoothing.bounds import Interval

SCHEMA_VERSION = 1
RECORDS_ONLY = "records_only"  # the setting that leaves out every check but the first

Pictures = Mapping[str, str]  # by name, as PNG in base64


@dataclass(frozen=True)
class AuditFinding:
    """Something that should not be; about a whole defence where `id` is None."""

    defence: str
    id: str | None
    sigma: float | None
    sentence: str
    pictures: Pictures = field(default_factory=dict, metadata=LEFT_OUT)

    def __str__(self) -> str:
        about = "" if self.id is None else f", {self.id} at sigma {self.sigma:g}"
        return f"{self.defence}{about}: {self.sentence}"


@dataclass(frozen=True)
class RetunedShares:
    """Answers of classifiers that tuned again at the attacked points."""

    same: Interval
    changed: Interval
    abstains: Interval


@dataclass(frozen=True)
class AttackTally:
    """Attacks on one defence; `retuned` is None where it does not tune on its input."""

    scope: Scope
    attempts: int
    broken: int
    lowest_share: float
    retuned: RetunedShares | None


@dataclass(frozen=True)
class RedrawTally:
    """Redraws of one defence: certificates that differ from their own seed's, or contradict a large count."""

    replayed: int
    differ: int
    redrawn: int
    contradicted: int


@dataclass(frozen=True)
class BorderTally:
    """Border images of one defence; `allowed`: certificates to be expected at most."""

    images: int
    tries: int
    certified: int
    allowed: float
    alpha: float


@dataclass(frozen=True)
class RecordsChecked:
    """Every radius, recomputed from its record."""

    tested: int
    findings: tuple[AuditFinding, ...]


@dataclass(frozen=True)
class AttacksChecked:
    """Certificates attacked inside their radius, by defence."""

    tested: int
    findings: tuple[AuditFinding, ...]
    defences: Mapping[str, AttackTally]


@dataclass(frozen=True)
class RedrawsChecked:
    """Images certified again, by defence."""

    tested: int
    findings: tuple[AuditFinding, ...]
    defences: Mapping[str, RedrawTally]


@dataclass(frozen=True)
class BordersChecked:
    """Images between two classes, by defence."""

    tested: int
    findings: tuple[AuditFinding, ...]
    defences: Mapping[str, BorderTally]


@dataclass(frozen=True)
class AuditSummary:
    """An audit, as in audit.json; a check that was not begun is None. `settings`: sample sizes and seed."""

    schema_version: int
    complete: bool
    rows: int
    settings: Mapping[str, int | bool]
    scopes: Mapping[str, Scope] = field(default_factory=dict)
    records: RecordsChecked | None = field(default=None, metadata=LEFT_OUT)
    attacks: AttacksChecked | None = field(default=None, metadata=LEFT_OUT)
    redraws: RedrawsChecked | None = field(default=None, metadata=LEFT_OUT)
    borders: BordersChecked | None = field(default=None, metadata=LEFT_OUT)

    @property
    def records_only(self) -> bool:
        """True for an audit of the records alone, without attacks and redraws."""
        return bool(self.settings.get(RECORDS_ONLY))

    @property
    def findings(self) -> tuple[AuditFinding, ...]:
        """Everything that should not be, over all checks."""
        parts = (self.records, self.attacks, self.redraws, self.borders)
        return tuple(one for part in parts if part for one in part.findings)

    def to_json(self) -> dict[str, Any]:
        """The object of audit.json."""
        found: dict[str, Any] = to_json(self)
        return found

    def to_text(self) -> str:
        """audit.json."""
        return json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n"
