"""All attacks by name. One paper, or one idea, a file; to add one: a file, and a line in `ATTACKS`."""

from collections.abc import Callable
from typing import NamedTuple

from medrobust.attacks.apgd import Apgd
from medrobust.attacks.attack import Attack
from medrobust.attacks.ball import Ball
from medrobust.attacks.errors import AttackError, NoGradientError
from medrobust.attacks.fab import Fab
from medrobust.attacks.pgd import Pgd
from medrobust.attacks.square import Square
from medrobust.attacks.suite import AutoAttack
from medrobust.errors import nearest

__all__ = ["ATTACKS", "Attack", "AttackError", "Ball", "Entry", "NoGradientError", "make"]


class Entry(NamedTuple):
    """How to make an attack with its usual settings, what it needs, and where it comes from."""

    title: str
    reference: str
    factory: Callable[[], Attack]
    needs_gradients: bool = True
    fewest_classes: int = 2


_ENSEMBLE = "Croce and Hein, ICML 2020 (AutoAttack)"

ATTACKS: dict[str, Entry] = {
    "pgd": Entry("projected gradient descent, cross-entropy, 100 steps", "Madry et al., ICLR 2018", Pgd),
    "cw": Entry(
        "projected gradient descent on the Carlini-Wagner margin, 100 steps", "Carlini and Wagner, S&P 2017",
        lambda: Pgd(loss="margin"),
    ),
    "apgd-ce": Entry("Auto-PGD on cross-entropy", _ENSEMBLE, Apgd),
    "apgd-dlr": Entry("Auto-PGD on the difference of logits ratio", _ENSEMBLE, lambda: Apgd(loss="dlr"),
                      fewest_classes=3),
    "apgd-margin": Entry("Auto-PGD on the scale-free margin", "ours; after Croce and Hein, ICML 2020",
                         lambda: Apgd(loss="margin")),
    "apgd-t": Entry("Auto-PGD on the targeted difference of logits ratio, 9 targets", _ENSEMBLE,
                    lambda: Apgd(loss="dlr", targets=9), fewest_classes=4),
    "apgd-t-margin": Entry("Auto-PGD on the targeted scale-free margin", "ours; after Croce and Hein, ICML 2020",
                           lambda: Apgd(loss="margin", targets=9)),
    "fab-t": Entry("fast adaptive boundary, 9 targets", "Croce and Hein, ICML 2020 (FAB)", Fab),
    "square": Entry("random squares, 5000 queries", "Andriushchenko et al., ECCV 2020", Square, needs_gradients=False),
    "autoattack": Entry("the four attacks of AutoAttack in turn", _ENSEMBLE, AutoAttack, needs_gradients=False),
}  # fmt: skip


def make(name: str) -> Attack:
    """An attack with its usual settings. Raises AttackError for an unknown name, with the nearest known one."""
    entry = ATTACKS.get(name)
    if entry is None:
        raise AttackError(f"no attack {name!r}{nearest(name, ATTACKS)}; there are {', '.join(ATTACKS)}")
    return entry.factory()
