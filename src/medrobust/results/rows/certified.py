"""Certificates on disk: one JSON line a row. A row alone is enough to recompute its radius."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from medrobust.results.journal import checked_form, read_journal
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
    id: str  # the image: its path within the data folder, the manifest's id, or `split/row`
    label: int  # the true class, in task order
    defence: str  # name of the defence in the experiment
    finding: str | None = None  # the finding it speaks of, with classes 0 (absent) and 1 (there); None: one class
    sigma: float  # standard deviation of the noise, pixels in [0, 1]
    clean: int | None  # answer on the noiseless image; None where the logits were not finite
    selected: int | None  # class that the selection draws chose; None where none had finite logits
    prediction: int | None  # the certified answer, `selected`; None: abstains
    radius: float  # certified, l2: one of `grid` for "spending", else six decimals, rounded down; 0.0 if it abstains
    votes: int  # for `selected`, among the first `trials` fresh draws
    trials: int  # counted draws at the look that decided the radius, or the abstention
    drawn: int  # counted draws when sampling stopped; not fewer than `trials`
    budget: int  # the most it might have drawn (`draws`)
    look: int  # draws between two looks at the count; `budget` where there is one look ("fixed")
    grid: tuple[float, ...]  # radii that were tested, ascending, where `stopping` is "spending"; else none
    selection: int  # number of selection draws, at most
    alpha: float  # error probability of this certificate
    stopping: Stopping  # the rule that ended the sampling
    scope: Scope  # the classifier that the certificate speaks of
    seed: int  # of the run

    def __post_init__(self) -> None:
        classes = [number for number in (self.label, self.clean, self.selected, self.prediction) if number is not None]
        demands = [
            (min(classes) >= 0, "a class number is negative"),
            (math.isfinite(self.sigma) and self.sigma > 0, f"sigma is {self.sigma}, must be above 0"),
            (math.isfinite(self.radius) and self.radius >= 0, f"radius is {self.radius}, must be finite, not below 0"),
            (0 <= self.votes <= self.trials, f"{self.votes} votes in {self.trials} trials are not a count"),
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
        """Its name within a run."""
        return CertifiedKey(self.id, self.sigma, self.name)

    @property
    def name(self) -> str:
        """The defence, with the finding where there is one."""
        return name_of(self.defence, self.finding)

    @property
    def correct(self) -> bool:
        """The certified answer is there and right."""
        return self.prediction == self.label


def recompute(row: CertifiedRow) -> float:
    """The radius from the counts of the record alone, by the rule of its `stopping`.

    Raises ValueError where the counts cannot have come from that rule.
    """
    if not row.trials:
        return 0.0
    return certified_radius(row.votes, row.trials, **record_of(row)) or 0.0


CERTIFIED = checked_form(CertifiedRow, SCHEMA_VERSION, parts="images, sigmas or defences", command="certify")


def read_rows(path: Path) -> list[CertifiedRow]:
    """All whole rows of a file; a torn last line is left out. Raises RunError naming file and line."""
    return read_journal(path, CERTIFIED)
