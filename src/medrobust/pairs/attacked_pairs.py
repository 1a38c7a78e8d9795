"""Training pairs of which a share is attacked: every image has one caption, the same in every batch."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from medrobust.pairs.batches import Pairs, class_balanced
from medrobust.pairs.captioned import CaptionedImages
from medrobust.pairs.poison import BLOCK, AttackedPair, Encode, Poison, attack_pairs, chosen, eight_bit
from medrobust.types import Images

Progress = Callable[[int, int], None]  # pairs done, pairs in all


@dataclass(frozen=True)
class Noise:
    """An attack on training pairs, and the encoder, a surrogate of the one to be trained, that it is made with."""

    poison: Poison
    encode: Encode
    progress: Progress = field(default=lambda _done, _total: None)


def fixed_pairs(
    pairs: CaptionedImages, noise: Noise | None = None, *, any_rotation: bool = False, share: float = 1.0
) -> tuple[Pairs, list[AttackedPair]]:
    """Pairs to train on, and a record of each attack; images of one caption are its matches.

    Labelled images are drawn such that every class is equally likely, by the class they had before the attack; others
    such that every pair is.
    """
    images = torch.stack([eight_bit(pairs.read(row)[None])[0] for row in range(len(pairs))])
    captions = list(pairs.captions)
    done: list[AttackedPair] = []
    if noise is not None:
        rows = chosen(len(pairs), noise.poison.share, noise.poison.seed)
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            images[block], attacked = attack_pairs(pairs, block, noise.poison, noise.encode)
            for row, pair in zip(block, attacked, strict=True):
                captions[row] = pair.caption_after
            done += attacked
            noise.progress(len(done), len(rows))
    texts = {text: number for number, text in enumerate(dict.fromkeys(captions))}
    numbers = torch.tensor([texts[text] for text in captions])
    fixed = Pairs(images, numbers, tuple((text,) for text in texts), any_rotation, share, _chance(pairs))
    return fixed, done


def resizing(encode: Encode, size: int) -> Encode:
    """The encoder for images of any size: they are resized (bicubic, antialiased) to its own first."""

    def resized(images: Images) -> Float[Tensor, "batch dim"]:
        if images.shape[-2:] == (size, size):
            return encode(images)
        fitted = F.interpolate(images, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
        return encode(fitted.clamp(0, 1))

    return resized


def _chance(pairs: CaptionedImages) -> Float[Tensor, " batch"]:
    return torch.ones(len(pairs)) if pairs.labels is None else class_balanced(torch.tensor(pairs.labels))
