"""The suite's set made short, for tests of manners."""

import pytest

from medrobust.attacks import suite
from medrobust.attacks.apgd import Apgd
from medrobust.attacks.attack import Attack
from medrobust.attacks.fab import Fab
from medrobust.attacks.square import Square


@pytest.fixture
def short_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """AutoAttack with few steps and queries."""

    def few(classes: int) -> dict[str, Attack]:
        loss = "dlr" if classes >= 4 else "margin"
        name = "apgd-t" if classes >= 4 else "apgd-t-margin"
        return {
            "apgd-ce": Apgd(steps=6),
            name: Apgd(loss=loss, targets=1, steps=6),
            "fab-t": Fab(targets=1, steps=6),
            "square": Square(queries=40),
        }

    monkeypatch.setattr(suite, "standard_set", few)
