"""All defences by name. One paper, or one idea, a file; to add one: a file, and a line in `DEFENCES`."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ValidationError

from medrobust.defences.capt import Apt, Capt, apt, capt
from medrobust.defences.coop import Coop, coop
from medrobust.defences.distill import Distill, distill
from medrobust.defences.pool import Pool, pool
from medrobust.defences.probe import FullFineTune, LinearProbe, MlpProbe, full_fine_tune, linear_probe, mlp_probe
from medrobust.defences.promptsmooth import PromptSmooth, promptsmooth
from medrobust.defences.promptsmooth_plus import PromptSmoothPlus, promptsmooth_plus
from medrobust.defences.ran import NmTune, Ran, nmtune, ran
from medrobust.defences.tecoa import Fare, PmgAft, Tecoa, fare, pmg_aft, tecoa
from medrobust.defences.undefended import Undefended, undefended
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
    in_sessions: bool = False  # its fit takes a Session: it can be cut off; heads are learned by one process only
    class_bound: bool = False  # what it learned speaks of its task's classes, of their number and order


DEFENCES: dict[str, Entry] = {
    "zero-shot": Entry(zero_shot, ZeroShot, "nothing", "hand-written prompts", "Radford et al., ICML 2021"),
    "coop": Entry(coop, Coop, "labels", "few-shot context on clean images", "Zhou et al., IJCV 2022"),
    "promptsmooth": Entry(
        promptsmooth, PromptSmooth, "labels", "prompts for noise: few-shot, zero-shot, combined",
        "Hussein et al., MICCAI 2024",
    ),
    "promptsmooth++": Entry(
        promptsmooth_plus, PromptSmoothPlus, "labels", "the same for both towers; deltas on each image",
        "PromptSmooth++, 2025 (abstract)",
    ),
    "pool": Entry(pool, Pool, "images", "context tuned on an unlabelled pool, then frozen", "ours; docs/methods.md"),
    "vote": Entry(vote, Vote, "nothing", "the surest of several prompts, sample by sample", "ours; docs/methods.md"),
    "distill": Entry(distill, Distill, "images", "vision tower taught to see through noise", "ours; docs/methods.md",
                     changes_vision=True),
    "tecoa": Entry(tecoa, Tecoa, "labels", "vision tower or prompts trained on attacked images",
                   "Mao et al., ICLR 2023", changes_vision=True, in_sessions=True),
    "fare": Entry(fare, Fare, "images", "vision tower whose features an attack cannot move",
                  "Schlarmann et al., ICML 2024", changes_vision=True, in_sessions=True),
    "pmg-aft": Entry(pmg_aft, PmgAft, "labels", "TeCoA guided by the model as it was", "Wang et al., CVPR 2024",
                     changes_vision=True, in_sessions=True),
    "apt": Entry(apt, Apt, "labels", "text context learned on attacked images", "Li et al., CVPR 2024",
                 in_sessions=True),
    "capt": Entry(capt, Capt, "labels", "consistent adversarial prompts in both towers", "Yang et al., 2024",
                  changes_vision=True, in_sessions=True),
    "linear-probe": Entry(linear_probe, LinearProbe, "labels", "linear head on frozen features", "docs/methods.md",
                          in_sessions=True, class_bound=True),
    "mlp-probe": Entry(mlp_probe, MlpProbe, "labels", "head with a hidden layer on frozen features", "docs/methods.md",
                       in_sessions=True, class_bound=True),
    "full-fine-tune": Entry(full_fine_tune, FullFineTune, "labels", "vision tower and linear head, clean images",
                            "docs/methods.md", changes_vision=True, in_sessions=True, class_bound=True),
    "nmtune": Entry(nmtune, NmTune, "labels", "frozen features rectified for a head", "Chen et al., ICLR 2024",
                    in_sessions=True, class_bound=True),
    "ran": Entry(ran, Ran, "labels", "the same against attacks on the images", "Han et al., Findings of EMNLP 2024",
                 in_sessions=True, class_bound=True),
    "undefended": Entry(undefended, Undefended, "nothing", "the model as it is", "docs/methods.md"),
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
