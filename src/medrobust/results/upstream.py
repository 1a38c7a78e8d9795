"""Downstream accuracy against the share of upstream pairs that was attacked, over models that differ in their seed.

Reference for the question: Han et al., Findings of EMNLP 2024, arXiv 2407.02716.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medrobust.errors import ModelError
from medrobust.smoothing.bounds import interval

Share = Mapping[str, Any]
Found = Mapping[str, Mapping[str, Any]]  # what probe.json says of each model


def upstream_noise(model: str) -> dict[str, Any] | None:
    """Share and seed that `medrobust pretrain --noise` left beside a model; None where it left nothing.

    Raises ModelError for a noise.json that does not hold them.
    """
    path = Path(model).expanduser() / "noise.json"
    if not path.is_file():
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        noise = {"share": float(said["share"]), "seed": int(said["seed"])}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{path} does not say share and seed ({type(error).__name__} {error}); write it again with "
            "`medrobust pretrain --noise`, or remove it"
        ) from error
    return noise


def noise_curves(models: Found) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """For each recipe, and for `clean` and each attack: the points of a curve over the attacked share.

    A point is the mean over the models of that share. Its interval is the exact 95 % one of as many hits of one model's
    images as the mean has, rounded outwards: more seeds do not narrow it, because all models answer the same images.
    Empty where fewer than two shares are known.
    """
    groups = by_share(models)
    if len(groups) < 2:
        return {}
    return {recipe: _curves_of(recipe, groups) for recipe in next(iter(models.values()))["clean_accuracy"]}


def by_share(models: Found) -> dict[float, list[Mapping[str, Any]]]:
    """The models whose attacked share is known, by share, smallest first."""
    known = [found for found in models.values() if found.get("noise")]
    shares = sorted({found["noise"]["share"] for found in known})
    return {share: [found for found in known if found["noise"]["share"] == share] for share in shares}


def mean_spectra(models: Found) -> dict[float, dict[str, Any]]:
    """For each attacked share the mean of its models' spectra; empty where these differ in length."""
    groups = by_share(models)
    lengths = {len(found["spectrum"]["shares"]) for members in groups.values() for found in members}
    if len(groups) < 2 or len(lengths) != 1:
        return {}
    return {
        share: {
            "shares": [_mean(values) for values in zip(*(one["spectrum"]["shares"] for one in members), strict=True)],
            "entropy": _mean([one["spectrum"]["entropy"] for one in members]),
        }
        for share, members in groups.items()
    }


def _curves_of(recipe: str, groups: Mapping[float, Sequence[Mapping[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    curves: dict[str, list[dict[str, Any]]] = {}
    for share, members in groups.items():
        parts: dict[str, list[Share]] = {"clean": [one["clean_accuracy"][recipe] for one in members]}
        for title in members[0]["robust_accuracy"][recipe]:
            parts[title] = [one["robust_accuracy"][recipe][title] for one in members]
        for title, found in parts.items():
            curves.setdefault(title, []).append({"share": share, **averaged(found)})
    return curves


def averaged(parts: Sequence[Share]) -> dict[str, Any]:
    """Mean of shares of the same images, the shares themselves, and the interval as `noise_curves` says."""
    total, hits = parts[0]["total"], [part["hits"] for part in parts]
    least, most = sum(hits) // len(hits), -(-sum(hits) // len(hits))
    return {
        "value": sum(hits) / len(hits) / total,
        "low": interval(least, total).low,
        "high": interval(most, total).high,
        "total": total,
        "models": [part["value"] for part in parts],
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
