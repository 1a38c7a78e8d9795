"""The numbers of a run, typed, as in summary.json. No torch here.

Shares are `Interval`: value, low, high, hits, total, with an exact two-sided 95 % interval.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medrobust.errors import RunError
from medrobust.results.rows.attacked import attack_title
from medrobust.results.rows.certified import Scope
from medrobust.results.values import LEFT_OUT, from_json, to_json, write_sorted
from medrobust.smoothing.bounds import Interval
from medrobust.words import eps_text, number_key

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class AnswerShares:
    """Shares of true answers: on the image as it is, and certified at each radius."""

    clean: Interval
    certified: Mapping[float, Interval]


@dataclass(frozen=True)
class FindingShares:
    """One finding under one defence: shares seen where it is present, and denied where it is absent.

    None where no image is of that kind.
    """

    there: int
    images: int
    abstained: Interval
    sensitivity: AnswerShares | None
    specificity: AnswerShares | None


@dataclass(frozen=True)
class CertifiedSummary:
    """The certificates of one noise level; every mapping is by defence, shares are of all images.

    `average_radius` counts 0 where the answer is not right, `mean_radius` leaves these images out. `mean_samples`
    counts the draws of the estimate, without those of the selection. `findings` is empty where an image has one class.
    """

    sigma: float
    radii: tuple[float, ...]
    images: int
    defences: tuple[str, ...]
    certified_accuracy: Mapping[str, Mapping[float, Interval]]
    clean_accuracy: Mapping[str, Interval]
    abstained: Mapping[str, Interval]
    certified_wrong: Mapping[str, Interval]
    average_certified_radius: Mapping[str, float]
    mean_certified_radius: Mapping[str, float | None]
    mean_samples: Mapping[str, float]
    scope: Mapping[str, Scope]
    largest_radius: float
    expected_false_certificates: float
    findings: Mapping[str, Mapping[str, FindingShares]] = field(default_factory=dict, metadata=LEFT_OUT)

    @property
    def middle_radius(self) -> float:
        """The radius for a headline: the largest not above sigma, else the smallest above 0.

        It does not depend on the results. 0.0 where no radius above 0 was asked for or could be certified.
        """
        above = [radius for radius in self.radii if 0 < radius <= self.largest_radius]
        return max((radius for radius in above if radius <= self.sigma), default=min(above, default=0.0))

    @property
    def tuned(self) -> bool:
        """True for a defence that was tuned on the input."""
        return any(scope != "model" for scope in self.scope.values())

    def to_json(self) -> dict[str, Any]:
        """One block of `by_sigma`."""
        return {**to_json(self), "robust_accuracy": {}}


@dataclass(frozen=True)
class AttackedSummary:
    """The attacks of a run; every mapping is by defence, and those of attacks by their title, `pgd linf 4/255`.

    `clean_accuracy` is that of the same images. With several eps, `broken_by` counts what any of those up to it broke.
    `sigma`: the noise under which prompts were tuned on the clean image. `titles`: the names of the set.
    """

    name: str
    norm: str
    eps: tuple[float, ...]
    standard: bool
    images: int
    defences: tuple[str, ...]
    scope: Mapping[str, Scope]
    sigma: float | None
    clean_accuracy: Mapping[str, Interval]
    broken_by: Mapping[str, Mapping[str, Mapping[str, int]]]
    titles: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    robust_accuracy: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict, metadata=LEFT_OUT)

    @property
    def attacks(self) -> tuple[str, ...]:
        """The title at each eps, the smallest first."""
        return tuple(attack_title(self.name, self.norm, eps) for eps in self.eps)

    @property
    def heads(self) -> tuple[str, ...]:
        """The column of a table at each eps: `robust linf 4/255`."""
        return tuple(f"robust {self.norm} {eps_text(eps)}" for eps in self.eps)

    @property
    def tuned(self) -> bool:
        """True for a defence that was tuned on the input."""
        return any(scope != "model" for scope in self.scope.values())

    def to_json(self) -> dict[str, Any]:
        """The part `attack` of summary.json; `robust_accuracy` stands beside it there."""
        found: dict[str, Any] = to_json(replace(self, robust_accuracy={}))
        return found


@dataclass(frozen=True)
class RunSummary:
    """All numbers of a run: a noise level after another, and its attacks; one of them may be missing."""

    levels: tuple[CertifiedSummary, ...] = ()
    attack: AttackedSummary | None = None

    @property
    def attacked(self) -> AttackedSummary:
        """The attacks; raises RunError where nothing was attacked."""
        if self.attack is None:
            raise RunError("nothing was attacked in this run; run `medrobust attack` into its folder first")
        return self.attack

    @property
    def images(self) -> int:
        """Images certified at the first noise level, or attacked where none was certified."""
        return self.levels[0].images if self.levels else self.attack.images if self.attack else 0

    @property
    def scope(self) -> dict[str, Scope]:
        """Scope by defence, over both kinds of rows."""
        certified = self.levels[0].scope if self.levels else {}
        return {**certified, **(self.attack.scope if self.attack else {})}

    def to_json(self) -> dict[str, Any]:
        """The object of summary.json; the block of the first noise level stands at the top as well."""
        attack = self.attack
        blocks = {number_key(level.sigma): level.to_json() for level in self.levels}
        top: dict[str, Any] = next(iter(blocks.values()), {})
        if attack and not self.levels:
            top = {"images": attack.images, "defences": list(attack.defences), "scope": dict(attack.scope)}
            top["clean_accuracy"] = to_json(attack.clean_accuracy)
        if attack:
            top = {**top, "robust_accuracy": to_json(attack.robust_accuracy), "attack": attack.to_json()}
        sigmas = [level.sigma for level in self.levels]
        return {"schema_version": SCHEMA_VERSION, **top, "sigmas": sigmas, "by_sigma": blocks}


@dataclass(frozen=True)
class _Kept:
    """The keys of summary.json that are read; the others repeat them."""

    sigmas: tuple[float, ...]
    by_sigma: Mapping[float, CertifiedSummary]
    robust_accuracy: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    attack: AttackedSummary | None = None


def write_summary(path: Path, summary: RunSummary) -> None:
    """Write summary.json whole or not at all: sorted keys, a newline at its end. Raises RunError."""
    write_sorted(path, summary.to_json())


def read_summary(path: Path) -> RunSummary:
    """A summary written by `write_summary`; raises RunError where it is missing, broken or of another version."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version = found.get("schema_version") if isinstance(found, dict) else None
        if version != SCHEMA_VERSION:
            raise RunError(f"{path} has schema_version {version}, this medrobust reads {SCHEMA_VERSION}")
        kept = from_json(_Kept, found)
        levels = tuple(kept.by_sigma[sigma] for sigma in kept.sigmas)
    except (OSError, ValueError, KeyError) as problem:
        raise RunError(f"{path} cannot be read ({problem}); run `medrobust report` on the folder again") from problem
    return RunSummary(levels, kept.attack and replace(kept.attack, robust_accuracy=kept.robust_accuracy))
