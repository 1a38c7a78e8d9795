"""Downstream accuracy against the share of upstream pairs that was attacked, over models that differ in their seed.

Reference for the question: Han et al., Findings of EMNLP 2024, arXiv 2407.02716.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from medrobust.errors import ModelError, RunError
from medrobust.results.page import NOTICE
from medrobust.results.rows.attacked import attack_title
from medrobust.results.values import from_json, to_json
from medrobust.smoothing.bounds import Interval, interval
from medrobust.words import eps_text

CLEAN = "clean"  # names the curve without an attack


@dataclass(frozen=True)
class Upstream:
    """The share of a model's training pairs that was attacked, and the seed of its training."""

    share: float
    seed: int


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a model's features, largest first as shares of their sum; their entropy in nats."""

    shares: tuple[float, ...]
    entropy: float


@dataclass(frozen=True)
class ProbedModel:
    """Heads on one model: clean accuracy by recipe, accuracy under attack by recipe and attack.

    `noise` is None where the attacked pairs upstream are unknown.
    """

    model: str
    sha256: str | None
    noise: Upstream | None
    images: int
    clean_accuracy: Mapping[str, Interval]
    robust_accuracy: Mapping[str, Mapping[str, Interval]]
    flags: Mapping[str, tuple[str, ...]]
    spectrum: Spectrum

    def share_of(self, recipe: str, title: str) -> Interval:
        """Clean accuracy, or that under the attack of this title."""
        return self.clean_accuracy[recipe] if title == CLEAN else self.robust_accuracy[recipe][title]


class MeanShare(NamedTuple):
    """A mean of shares of the same images with its interval, and the shares themselves."""

    value: float
    low: float
    high: float
    total: int
    models: tuple[float, ...]


@dataclass(frozen=True)
class CurvePoint:
    """The mean over the models of one attacked share."""

    share: float
    value: float
    low: float
    high: float
    total: int
    models: tuple[float, ...]


@dataclass(frozen=True)
class AttackUsed:
    """The set of attacks and its balls."""

    name: str
    norm: str
    eps: tuple[float, ...]

    @property
    def columns(self) -> dict[str, str]:
        """Clean and every attack by the title that summaries give it, and the column's head in a table."""
        robust = {attack_title(self.name, self.norm, eps): f"robust {self.norm} {eps_text(eps)}" for eps in self.eps}
        return {CLEAN: "clean"} | robust


@dataclass(frozen=True)
class ProbeSummary:
    """Heads compared, as in probe.json: on one or several models, by the share of attacked pairs upstream."""

    data: str
    split: str
    attack: AttackUsed
    models: Mapping[str, ProbedModel]
    noise_curves: Mapping[str, Mapping[str, tuple[CurvePoint, ...]]] = field(default_factory=dict)
    schema_version: int = 1
    notice: str = NOTICE

    def to_json(self) -> dict[str, Any]:
        """The object of probe.json."""
        found: dict[str, Any] = to_json(self)
        return found


def read_probe(path: Path) -> ProbeSummary:
    """A comparison that `medrobust probe` wrote. Raises RunError where it cannot be read."""
    try:
        return from_json(ProbeSummary, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as problem:
        raise RunError(f"{path} cannot be read ({problem}); run `medrobust probe` into that folder again") from problem


def read_upstream(model: str) -> Upstream | None:
    """Share and seed that `medrobust pretrain --noise` left beside a model; None where it left nothing.

    Raises ModelError for a noise.json that does not hold them.
    """
    path = Path(model).expanduser() / "noise.json"
    if not path.is_file():
        return None
    try:
        return from_json(Upstream, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} does not say share and seed ({error}); write it again with `medrobust pretrain --noise`, or "
            "remove it"
        ) from error


def upstream_curves(models: Mapping[str, ProbedModel]) -> dict[str, dict[str, tuple[CurvePoint, ...]]]:
    """For each recipe, and for `clean` and each attack: the points of a curve over the attacked share.

    A point is the mean over the models of that share. Its interval is the exact 95 % one of as many hits of one model's
    images as the mean has, rounded outwards: more seeds do not narrow it, because all models answer the same images.
    Empty where fewer than two shares are known.
    """
    groups = by_upstream(models)
    if len(groups) < 2:
        return {}
    return {recipe: _curves_of(recipe, groups) for recipe in next(iter(models.values())).clean_accuracy}


def by_upstream(models: Mapping[str, ProbedModel]) -> dict[float, list[ProbedModel]]:
    """The models whose attacked share is known, by share, smallest first."""
    groups: dict[float, list[ProbedModel]] = {}
    known = [(found.noise.share, found) for found in models.values() if found.noise]
    for share, found in sorted(known, key=lambda pair: pair[0]):
        groups.setdefault(share, []).append(found)
    return groups


def mean_spectra(models: Mapping[str, ProbedModel]) -> dict[float, Spectrum]:
    """For each attacked share the mean of its models' spectra; empty where these differ in length."""
    groups = by_upstream(models)
    lengths = {len(found.spectrum.shares) for members in groups.values() for found in members}
    if len(groups) < 2 or len(lengths) != 1:
        return {}
    return {
        share: Spectrum(
            tuple(_mean(values) for values in zip(*(one.spectrum.shares for one in members), strict=True)),
            _mean([one.spectrum.entropy for one in members]),
        )
        for share, members in groups.items()
    }


def _curves_of(recipe: str, groups: Mapping[float, Sequence[ProbedModel]]) -> dict[str, tuple[CurvePoint, ...]]:
    titles = [CLEAN, *next(iter(groups.values()))[0].robust_accuracy[recipe]]
    return {
        title: tuple(
            CurvePoint(share, *averaged([one.share_of(recipe, title) for one in members]))
            for share, members in groups.items()
        )
        for title in titles
    }


def averaged(parts: Sequence[Interval]) -> MeanShare:
    """Mean of shares of the same images, the shares themselves, and the interval as `upstream_curves` says."""
    total, hits = parts[0].total, [part.hits for part in parts]
    least, most = sum(hits) // len(hits), -(-sum(hits) // len(hits))
    return MeanShare(
        value=sum(hits) / len(hits) / total,
        low=interval(least, total).low,
        high=interval(most, total).high,
        total=total,
        models=tuple(part.value for part in parts),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
