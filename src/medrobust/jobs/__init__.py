"""Jobs: the work of a command. One kind of work a file, or a folder; to add one: a file, and a line in `KINDS`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medrobust.jobs.job import Kind

KINDS = {
    "attack": "medrobust.jobs.attack:ATTACK",
    "audit": "medrobust.jobs.audit:AUDIT",
    "certify": "medrobust.jobs.certify:CERTIFY",
    "check": "medrobust.jobs.check:CHECK",
    "fit": "medrobust.jobs.fit:FIT",
    "poison": "medrobust.jobs.poison:POISON",
    "tiles": "medrobust.jobs.tiles:TILES",
    "vqa": "medrobust.jobs.ask:VQA",
}


def kind_of(name: str) -> "Kind[Any, Any, Any, Any]":
    """The kind of job of that name, imported when it is first used."""
    module, _, attribute = KINDS[name].partition(":")
    found: Kind[Any, Any, Any, Any] = getattr(import_module(module), attribute)
    return found
