"""All defences by name. One paper, or one idea, a file; to add one: a file, and a line in `DEFENCES`."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ValidationError

from medrobust.defences.coop import Coop, coop
from medrobust.defences.distill import Distill, distill
from medrobust.defences.pool import Pool, pool
from medrobust.defences.promptsmooth import PromptSmooth, promptsmooth
from medrobust.defences.vote import Vote, vote
from medrobust.defences.zero_shot import ZeroShot, zero_shot
from medrobust.errors import ConfigError, nearest
from medrobust.types import Defence


class Entry(NamedTuple):
    """How to make a defence, what it may be told, what it needs, and where it comes from."""

    make: Callable[[Any], Defence]
    settings: type[BaseModel]
    learns_from: Literal["nothing", "images", "labels"]
    title: str
    reference: str
    changes_vision: bool = False


DEFENCES: dict[str, Entry] = {
    "zero-shot": Entry(zero_shot, ZeroShot, "nothing", "hand-written prompts", "Radford et al., ICML 2021"),
    "coop": Entry(coop, Coop, "labels", "few-shot context on clean images", "Zhou et al., IJCV 2022"),
    "promptsmooth": Entry(
        promptsmooth, PromptSmooth, "labels", "prompts for noise: few-shot, zero-shot, combined",
        "Hussein et al., MICCAI 2024",
    ),
    "pool": Entry(pool, Pool, "images", "context tuned on an unlabelled pool, then frozen", "ours; docs/methods.md"),
    "vote": Entry(vote, Vote, "nothing", "the surest of several prompts, sample by sample", "ours; docs/methods.md"),
    "distill": Entry(distill, Distill, "images", "vision tower taught to see through noise", "ours; docs/methods.md",
                     changes_vision=True),
}  # fmt: skip


def make(name: str, settings: Mapping[str, Any] | None = None) -> Defence:
    """A defence with its settings checked.

    Raises ConfigError for an unknown name or setting, with the nearest known one.
    """
    entry = DEFENCES.get(name)
    if entry is None:
        raise ConfigError(f"no defence {name!r}{nearest(name, DEFENCES)}; there are {', '.join(DEFENCES)}")
    try:
        return entry.make(entry.settings.model_validate(dict(settings or {})))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        known = list(entry.settings.model_fields)
        if first["type"] == "extra_forbidden":
            raise ConfigError(
                f"{name} has no setting {where!r}{nearest(where, known)}; it has {', '.join(known) or 'none'}"
            ) from error
        raise ConfigError(f"{name}: {where} = {first['input']!r}: {first['msg'].lower()}") from error
