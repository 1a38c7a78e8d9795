"""All attacks by name. One paper, or one idea, a file; to add one: a file, and a line in `ATTACKS`.

Installed packages add lines through the entry points `medrobust.attacks`.
"""

from collections.abc import Mapping
from typing import Any

from medrobust.attacks.apgd import Apgd
from medrobust.attacks.attack import Attack, AttackSet
from medrobust.attacks.ball import Ball
from medrobust.attacks.entry import AttackEntry
from medrobust.attacks.errors import AttackError, NoGradientError
from medrobust.attacks.fab import Fab
from medrobust.attacks.pgd import Pgd
from medrobust.attacks.square import Square
from medrobust.attacks.suite import AutoAttack
from medrobust.errors import nearest
from medrobust.plugins import Registry

__all__ = [
    "ATTACKS", "STANDARD", "Attack", "AttackEntry", "AttackError", "AttackSet", "Ball", "NoGradientError",
    "make_attack",
]  # fmt: skip

_ENSEMBLE = "Croce and Hein, ICML 2020 (AutoAttack)"
_OURS = "ours; after Croce and Hein, ICML 2020"
_UNTARGETED = ("loss", "targets")

STANDARD = "autoattack"  # taken where no attack is named

ATTACKS = Registry("medrobust.attacks", "attack", AttackEntry, {
    "pgd": AttackEntry("projected gradient descent, cross-entropy", "Madry et al., ICLR 2018", Pgd(), ("loss",)),
    "cw": AttackEntry("projected gradient descent on the Carlini-Wagner margin", "Carlini and Wagner, S&P 2017",
                      Pgd(loss="margin"), ("loss",)),
    "apgd-ce": AttackEntry("Auto-PGD on cross-entropy", _ENSEMBLE, Apgd(), _UNTARGETED),
    "apgd-dlr": AttackEntry("Auto-PGD on the difference of logits ratio", _ENSEMBLE, Apgd(loss="dlr"), _UNTARGETED),
    "apgd-margin": AttackEntry("Auto-PGD on the scale-free margin", _OURS, Apgd(loss="margin"), _UNTARGETED),
    "apgd-t": AttackEntry("Auto-PGD on the targeted difference of logits ratio", _ENSEMBLE,
                          Apgd(loss="dlr", targets=9), ("loss",)),
    "apgd-t-margin": AttackEntry("Auto-PGD on the targeted scale-free margin", _OURS,
                                 Apgd(loss="margin", targets=9), ("loss",)),
    "fab-t": AttackEntry("fast adaptive boundary, targeted", "Croce and Hein, ICML 2020 (FAB)", Fab()),
    "square": AttackEntry("random squares", "Andriushchenko et al., ECCV 2020", Square()),
    STANDARD: AttackEntry("the four attacks of AutoAttack in turn", _ENSEMBLE, AutoAttack(), ("batch",)),
})  # fmt: skip


def make_attack(name: str, settings: Mapping[str, Any] | None = None) -> Attack:
    """An attack with its usual settings, or with others: `make_attack("pgd", {"steps": 20, "step": "2/255"})`.

    Raises AttackError for an unknown name or setting, with the nearest known one, and for a value it cannot take.
    """
    entry = ATTACKS.get(name)
    if entry is None:
        raise AttackError(f"no attack {name!r}{nearest(name, ATTACKS)}; there are {', '.join(ATTACKS)}")
    return entry.made(name, settings or {})
