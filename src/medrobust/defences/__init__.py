"""All defences by name. One paper, or one idea, a file; to add one: a file, and a line in `DEFENCES`.

Installed packages add lines through the entry points `medrobust.defences`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from medrobust.defences.capt import Apt, Capt, apt, capt
from medrobust.defences.coop import Coop, coop
from medrobust.defences.defence import Defence
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
from medrobust.plugins import Registry


class DefenceEntry(NamedTuple):
    """The maker of a defence, its settings, and its source.

    Properties that depend on the settings (`learns_from`, `changes`) are those of the defence that `make` returns.
    """

    make: Callable[[Any], Defence]
    settings: type[BaseModel]
    title: str
    reference: str
    variant: str = ""  # the setting that NAME:VARIANT gives


DEFENCES = Registry("medrobust.defences", "defence", DefenceEntry, {
    "zero-shot": DefenceEntry(zero_shot, ZeroShot, "hand-written prompts", "Radford et al., ICML 2021"),
    "coop": DefenceEntry(coop, Coop, "few-shot context on clean images", "Zhou et al., IJCV 2022"),
    "promptsmooth": DefenceEntry(
        promptsmooth, PromptSmooth, "prompts for noise: few-shot, zero-shot, combined",
        "Hussein et al., MICCAI 2024", variant="mode",
    ),
    "promptsmooth++": DefenceEntry(
        promptsmooth_plus, PromptSmoothPlus, "the same for both towers; deltas on each image",
        "PromptSmooth++, 2025 (abstract)", variant="mode",
    ),
    "pool": DefenceEntry(pool, Pool, "context tuned on an unlabelled pool, then frozen", "ours; docs/methods.md"),
    "vote": DefenceEntry(vote, Vote, "the surest of several prompts, sample by sample", "ours; docs/methods.md"),
    "distill": DefenceEntry(distill, Distill, "vision tower taught to see through noise", "ours; docs/methods.md"),
    "tecoa": DefenceEntry(
        tecoa, Tecoa, "vision tower or prompts trained on attacked images", "Mao et al., ICLR 2023", variant="mode"
    ),
    "fare": DefenceEntry(
        fare, Fare, "vision tower whose features an attack cannot move", "Schlarmann et al., ICML 2024", variant="mode"
    ),
    "pmg-aft": DefenceEntry(
        pmg_aft, PmgAft, "TeCoA guided by the model as it was", "Wang et al., CVPR 2024", variant="mode"
    ),
    "apt": DefenceEntry(apt, Apt, "text context learned on attacked images", "Li et al., CVPR 2024"),
    "capt": DefenceEntry(capt, Capt, "consistent adversarial prompts in both towers", "Yang et al., 2024"),
    "linear-probe": DefenceEntry(linear_probe, LinearProbe, "linear head on frozen features", "docs/methods.md"),
    "mlp-probe": DefenceEntry(mlp_probe, MlpProbe, "head with a hidden layer on frozen features", "docs/methods.md"),
    "full-fine-tune": DefenceEntry(
        full_fine_tune, FullFineTune, "vision tower and linear head, clean images", "docs/methods.md"
    ),
    "nmtune": DefenceEntry(nmtune, NmTune, "frozen features rectified for a head", "Chen et al., ICLR 2024"),
    "ran": DefenceEntry(ran, Ran, "the same against attacks on the images", "Han et al., Findings of EMNLP 2024"),
    "undefended": DefenceEntry(undefended, Undefended, "the model as it is", "docs/methods.md"),
})  # fmt: skip


def make_defence(name: str, settings: Mapping[str, Any] | None = None) -> Defence:
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


def variant_of(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of these settings the one that NAME:VARIANT gives; empty where they do not say it.

    >>> variant_of("promptsmooth", {"mode": "combined", "draws": 10})
    {'mode': 'combined'}
    """
    key = DEFENCES[name].variant if name in DEFENCES else ""
    return {key: settings[key]} if key in settings else {}
