"""Certificates on disk: one JSON line a row. A row alone is enough to recompute its radius."""

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from medrobust.results.journal import Form, read, values_of
from medrobust.smoothing.sequential import Stopping, certified_radius, record_of

SCHEMA_VERSION = 3

Scope = Literal["model", "tuned on input"]  # as in types.py, which would load torch


class CertifiedKey(NamedTuple):
    """Names a row within a run: an image, a noise level, a defence (with its finding, as `name_of` names both)."""

    id: str
    sigma: float
    defence: str

    def __str__(self) -> str:
        return f"{self.id} at sigma {self.sigma:g} under {self.defence}"


def name_of(defence: str, finding: str | None) -> str:
    """The name of a defence in tables, or of its answers about one finding.

    >>> name_of("zero-shot", None), name_of("zero-shot", "edema")
    ('zero-shot', 'zero-shot: edema')
    """
    return defence if finding is None else f"{defence}: {finding}"


@dataclass(frozen=True, kw_only=True)
class CertifiedRow:
    """One certificate of one image at one sigma under one defence; raises ValueError where it contradicts itself.

    Of a task with findings there is a row for each: its classes are 0 (absent) and 1 (there), its `alpha` a part.

    `radius` is l2 in pixels of [0, 1]. A right answer can hold at radius 0.0 (a rule that tests a grid of radii may
    settle no more); only `prediction=None` means that the classifier abstains.
    """

    schema_version: int = SCHEMA_VERSION
    id: str
    label: int
    defence: str
    finding: str | None = None
    sigma: float
    clean: int | None  # answer on the noiseless image; None where the logits were not finite
    selected: int | None  # class chosen by the selection draws
    prediction: int | None  # None: abstains
    radius: float
    votes: int  # for `selected`, among `trials` fresh draws
    trials: int  # when it was decided
    drawn: int  # when sampling stopped
    budget: int  # the most it might have drawn
    look: int  # draws between two looks at the count; the budget where there is one look
    grid: tuple[float, ...]  # radii that were tested, ascending, where `stopping` is "spending"; else none
    selection: int  # number of selection draws, at most
    alpha: float
    stopping: Stopping
    scope: Scope
    seed: int

    def __post_init__(self) -> None:
        classes = [number for number in (self.label, self.clean, self.selected, self.prediction) if number is not None]
        demands = [
            (min(classes) >= 0, "a class number is negative"),
            (math.isfinite(self.sigma) and self.sigma > 0, f"sigma is {self.sigma}, must be above 0"),
            (math.isfinite(self.radius) and self.radius >= 0, f"radius is {self.radius}, must be finite, not below 0"),
            (0 <= self.votes <= self.trials, f"{self.votes} votes in {self.trials} trials is no count"),
            (self.trials <= self.drawn <= self.budget, f"{self.trials} of {self.drawn} draws of {self.budget}"),
            (1 <= self.look <= self.budget, f"look is {self.look}, must lie between 1 and {self.budget}"),
            ((self.stopping == "spending") == bool(self.grid), f"the grid of radii is {list(self.grid)}"),
            (list(self.grid) == sorted(set(self.grid)) and min(self.grid, default=0) >= 0, "the grid is not ascending"),
            (self.selection >= 0, f"selection is {self.selection}, must not be negative"),
            (0 < self.alpha < 1, f"alpha is {self.alpha}, must lie between 0 and 1"),
            (self.prediction in (None, self.selected), "prediction is not the selected class"),
            (self.prediction is not None or self.radius == 0, "an abstention has a radius"),
        ]
        wrong = [text for holds, text in demands if not holds]
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def key(self) -> CertifiedKey:
        """What names this row within a run."""
        return CertifiedKey(self.id, self.sigma, self.name)

    @property
    def name(self) -> str:
        """The defence, with the finding where there is one."""
        return name_of(self.defence, self.finding)

    @property
    def correct(self) -> bool:
        """The certified answer is there and right."""
        return self.prediction == self.label


_FLOATS = {"sigma", "radius", "alpha"}
_STRINGS = {"id", "defence", "finding"}
_CHOICES = {"stopping": get_args(Stopping), "scope": get_args(Scope)}
_LISTS = {"grid"}
_MAY_BE_NULL = {"clean", "selected", "prediction", "finding"}


def to_line(row: CertifiedRow) -> str:
    """One line of ASCII JSON with its newline: keys in their order, floats that read back to the same bits."""
    values = {field.name: getattr(row, field.name) for field in fields(row)}
    values |= {name: float(values[name]) for name in _FLOATS}
    values |= {name: [float(value) for value in values[name]] for name in _LISTS}
    return json.dumps(values, allow_nan=False) + "\n"


def from_line(line: str) -> CertifiedRow:
    """The row of a line; raises ValueError that says what is wrong with it (JSONDecodeError where it is no JSON)."""
    values = values_of(line, CertifiedRow, SCHEMA_VERSION)
    return CertifiedRow(**{name: _typed(name, value) for name, value in values.items()})


def _typed(name: str, value: Any) -> Any:
    if name in _FLOATS and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e300 else math.inf
    if isinstance(value, str) and (name in _STRINGS or value in _CHOICES.get(name, ())):
        return value
    if name in _LISTS and isinstance(value, list):
        return tuple(_typed("radius", one) for one in value)
    if (
        name not in _FLOATS | _STRINGS | _LISTS | _CHOICES.keys()
        and isinstance(value, int)
        and not isinstance(value, bool)
    ):
        return value
    if name in _MAY_BE_NULL and value is None:
        return None
    raise ValueError(f"{name} is {value!r}")


def recompute(row: CertifiedRow) -> float:
    """The radius from the counts of the record alone, by the rule of its `stopping`.

    Raises ValueError where the counts cannot have come from that rule.
    """
    if not row.trials:
        return 0.0
    return certified_radius(row.votes, row.trials, **record_of(row)) or 0.0


CERTIFIED = Form(to_line, from_line, parts="images, sigmas or defences", command="certify")


def read_rows(path: Path) -> list[CertifiedRow]:
    """All whole rows of a file; a torn last line is left out. Raises RunError naming file and line."""
    return read(path, CERTIFIED)
