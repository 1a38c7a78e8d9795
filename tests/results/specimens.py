"""Rows to test with, whose radii follow from their counts."""

from typing import Any

from medrobust.results.rows.attacked import AttackedRow
from medrobust.results.rows.certified import CertifiedRow
from medrobust.smoothing import bounds

RADII = [0.0, 0.1, 0.25, 0.5]


def specimen(votes: int = 990, **changes: Any) -> CertifiedRow:
    """A right answer with so many of 1,000 votes, abstaining where they prove no majority."""
    given = {"id": "a", "label": 1, "defence": "zero-shot", "sigma": 0.25, "selected": 1, "trials": 1000}
    given |= {
        "clean": 1,
        "selection": 100,
        "alpha": 0.001,
        "stopping": "fixed",
        "scope": "model",
        "seed": 0,
        "grid": (),
    }
    given |= changes
    given = {"drawn": given["trials"], "budget": given["trials"], "look": given["trials"]} | given
    radius = bounds.radius(votes, given["trials"], given["alpha"], given["sigma"])
    given = {"votes": votes, "radius": radius, "prediction": given["selected"] if radius else None} | given
    return CertifiedRow(**given)


def study(sigmas: tuple[float, ...] = (0.25, 0.5)) -> list[CertifiedRow]:
    """12 images, 2 classes, three defences; `tuner` is tuned on input. Image by image, as a run writes them."""
    votes = {"zero-shot": (300, 600, 990), "few-shot": (700, 900, 1000), "tuner": (1000, 1000, 980)}
    return [
        specimen(
            votes[defence][image % 3],
            id=f"image-{image:02}",
            label=image % 2,
            selected=0 if image == 11 else image % 2,
            clean=None if image == 7 else image % 2,
            defence=defence,
            sigma=sigma,
            scope="tuned on input" if defence == "tuner" else "model",
        )
        for image in range(12)
        for sigma in sigmas
        for defence in votes
    ]


def assault(**changes: Any) -> AttackedRow:
    """An image of class 1 that no attack broke, unless `broken_by` says which did."""
    given: dict[str, Any] = {"id": "a", "label": 1, "defence": "zero-shot", "scope": "model", "norm": "linf"}
    given |= {"eps": 1 / 255, "attack": "pgd", "standard": False, "broken_by": None, "seed": 0} | changes
    by = given["broken_by"]
    given |= {"clean": 0 if by == "clean" else 1, "answer": 1 if by is None else 0}
    given["distance"] = 0.0 if by in (None, "clean") else 1 / 255
    given["sigma"] = None if given["scope"] == "model" else 0.25
    return AttackedRow(**given)
