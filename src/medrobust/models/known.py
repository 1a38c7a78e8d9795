"""The models that are known by name, each with its source, format, licence and preprocessing.

Installed packages add models through the entry points `medrobust.models`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from medrobust.plugins import Registry
from medrobust.types.vit import Activation

Format = Literal["transformers", "open_clip", "openai", "medclip", "conch"]
BY_HAND: tuple[Format, ...] = ("openai", "medclip", "conch")  # no file of theirs says what they are


@dataclass(frozen=True)
class Entry:
    """One known model.

    `source`: "embedded", a hub id, the absolute path of a folder that a plugin brings, or, for a format of `BY_HAND`
    and for a plugin's own, where a person gets the file. `revision`: the first digits of the hub's commit, where it is
    known; `sha256` of the weights. None: not pinned.

    `read` is for a format that a plugin brings: from a `models.clip.ModelSource` to the model. It reads what `source`
    or NAME=PATH names, and every folder whose config.json says `model_type` with the name of that format.
    """

    name: str
    title: str
    source: str
    format: str  # a Format, or a plugin's own
    image_size: int
    preprocessing: str
    licence: str
    commercial_use: bool | None  # None: the source does not say
    activation: Activation | None = None  # of both towers; None: the checkpoint's own config says it
    revision: str | None = None
    sha256: str | None = None
    read: Callable[[Any], Any] | None = None

    @property
    def by_hand(self) -> bool:
        """True where the files are not on the hub and a person has to fetch them."""
        own = self.read is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.source)
        return self.format in BY_HAND or own

    @property
    def pinned(self) -> str:
        """The pinned revision or hash of the files, in words."""
        known = {"revision": self.revision, "sha256": self.sha256}
        return ", ".join(f"{key} {value}" for key, value in known.items() if value) or "not pinned"


_OWN = "from its preprocessor_config.json"
_CROP = "shorter side to 224, centre cut out; CLIP's mean and std"
_MIT = "MIT (code)"

MODELS = Registry("medrobust.models", "model", Entry, {
    entry.name: entry
    for entry in (
        Entry("builtin", "small CLIP for blood cells, chest X-rays, colon tissue", "embedded", "transformers", 56, _OWN,
              "Apache-2.0; trained on CC BY 4.0 and CC0 images", True),
        Entry("plip", "PLIP: CLIP ViT-B/32 for pathology", "vinid/plip", "transformers", 224, _OWN,
              "none stated; model card: research use", None, revision="67ade53d"),
        Entry("quiltnet-b-32", "QuiltNet: CLIP ViT-B/32 for pathology", "wisdomik/QuiltNet-B-32", "open_clip", 224,
              _CROP, "MIT (tag of its page)", True, "gelu", "8ce77289"),
        Entry("quiltnet-b-16", "QuiltNet: CLIP ViT-B/16 for pathology", "wisdomik/QuiltNet-B-16", "open_clip", 224,
              _CROP, "MIT (tag of its page)", True, "gelu"),
        Entry("biomedclip", "BiomedCLIP: ViT-B/16 and BiomedBERT for figures of papers",
              "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", "open_clip", 224, _CROP, "MIT", True, "gelu",
              "9f341de2"),
        Entry("chexzero", "CheXzero: CLIP ViT-B/32 for chest X-rays", "the page of rajpurkarlab/CheXzero on GitHub",
              "openai", 224, "longer side to 320, black around it to a square, grey, then to 224; mean 101.48761 and "
              "std 83.43944 of 255", _MIT, True, "quick_gelu"),
        Entry("medclip-vit", "MedCLIP: Swin-tiny and Bio_ClinicalBERT for chest X-rays",
              "the page of RyanWangZf/MedCLIP on GitHub", "medclip", 224, "grey, black around it to a square, to 224; "
              "mean 0.5863 and std 0.2795", "none stated", None, "gelu"),
        Entry("siglip-base-patch16-224", "SigLIP ViT-B/16", "google/siglip-base-patch16-224", "transformers", 224,
              _OWN, "Apache-2.0", True),
        Entry("medsiglip-448", "MedSigLIP: SigLIP for medical images", "google/medsiglip-448", "transformers", 448,
              _OWN, "Health AI Developer Foundations terms; gated", None),
        Entry("conch", "CONCH: CoCa ViT-B/16 for pathology", "MahmoodLab/conch on the hub (gated)", "conch", 448,
              "shorter side to 448, centre cut out; CLIP's mean and std", "CC BY-NC-ND 4.0: no commercial use", False,
              "gelu"),
        Entry("clip-vit-base-patch32", "OpenAI CLIP ViT-B/32", "openai/clip-vit-base-patch32", "transformers", 224,
              _OWN, _MIT, True),
        Entry("clip-vit-base-patch16", "OpenAI CLIP ViT-B/16", "openai/clip-vit-base-patch16", "transformers", 224,
              _OWN, _MIT, True),
        Entry("clip-vit-large-patch14", "OpenAI CLIP ViT-L/14", "openai/clip-vit-large-patch14", "transformers", 224,
              _OWN, _MIT, True),
    )
})  # fmt: skip
