"""Attacked pairs: of a share of the pairs, the image is moved to another one's features and the caption turned around.

Reference: Han et al., "Light-weight fine-tuning method for defending adversarial noise in pre-trained medical
vision-language models", Findings of EMNLP 2024, arXiv 2407.02716, section 3. Ours: the shares are nested, and images
are attacked as the 8-bit pixels that a file can hold.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from medrobust.attacks.ball import Ball
from medrobust.errors import ConfigError, DataError
from medrobust.pairs.caption_attack.attack import CaptionReport, attack_captions
from medrobust.pairs.captioned import CaptionedImages
from medrobust.pairs.image_attack import EmbeddingAttack, cosine, psnr
from medrobust.seeds import stream
from medrobust.types import Features, Image, Images

Encode = Callable[[Images], Features]
Bytes = UInt8[Tensor, "batch 3 h w"]

BLOCK = 64  # pairs that are attacked at once
VERSION = 1


@dataclass(frozen=True)
class Poison:
    """Share of the pairs that are attacked, and the attack. Raises `ConfigError` where both halves are left out."""

    share: float
    ball: Ball = field(default_factory=lambda: Ball("linf", 8 / 255))
    attack: EmbeddingAttack = field(default_factory=lambda: EmbeddingAttack(batch=BLOCK))
    images: bool = True
    captions: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"the share is {self.share:g}, must be from 0 to 1 (0 % to 100 %)")
        if not (self.images or self.captions):
            raise ConfigError("neither images nor captions would be attacked; leave out one of the two switches")


@dataclass(frozen=True)
class Targets:
    """Images of another collection, one of which an attacked image is moved to."""

    ids: tuple[str, ...]
    read: Callable[[int], Image]
    source: str


@dataclass(frozen=True)
class AttackedPair:
    """The attack on one pair. `None` where that half was not attacked, or where PSNR is infinite.

    Cosines and PSNR (dB) are those of the 8-bit images; `words_changed` lists what stood there and what does now.
    """

    id: str
    target: str | None
    cosine_before: float | None
    cosine_after: float | None
    psnr: float | None
    caption_before: str
    caption_after: str
    caption_changed: bool
    words_changed: tuple[tuple[str, str], ...]
    schema_version: int = VERSION

    @property
    def key(self) -> str:
        """Its name within a data set."""
        return self.id


def parse_share(text: str) -> float:
    """A share as a user writes it. Raises `ConfigError` with a suggestion where it is none.

    >>> parse_share("10%"), parse_share("0.1"), parse_share("1")
    (0.1, 0.1, 1.0)
    """
    number = text.strip().removesuffix("%").strip()
    percent = text.strip().endswith("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        raise ConfigError(f"the share {text!r} is not a number; write it as 10% or 0.1") from None
    if 0 <= value <= 1:
        return value
    meant = f"; did you mean {number}%?" if not percent and 1 < value <= 100 else "; write it as 10% or 0.1"
    raise ConfigError(f"the share is {text.strip()}, must be from 0 % to 100 %{meant}")


def chosen(count: int, share: float, seed: int) -> list[int]:
    """The rows that are attacked, in the order of the draw: those of a smaller share come first in a larger one's."""
    order = torch.randperm(count, generator=stream(seed, "poison"))
    return order[: math.floor(share * count + 0.5)].tolist()


def attack_pairs(
    pairs: CaptionedImages, rows: Sequence[int], poison: Poison, encode: Encode, targets: Targets | None = None
) -> tuple[Bytes, list[AttackedPair]]:
    """Those pairs after the attack: images as bytes, and what was done. One batch; pass `BLOCK` rows or fewer.

    An image is moved to one of `targets`, or of the same data: one of another class, or, where there are no labels,
    with another caption. Raises `DataError` where there is none.
    """
    clean = eight_bit(torch.stack([pairs.read(row) for row in rows]))
    before, images = clean.float() / 255, clean
    names: list[str | None] = [None] * len(rows)
    cosines: list[list[float | None]] = [[None] * len(rows)] * 2
    if poison.images:
        places = [target_of(row, pairs, targets, poison.seed) for row in rows]
        source = pairs if targets is None else targets
        names = [source.ids[place] for place in places]
        with torch.no_grad():
            wanted = encode(eight_bit(torch.stack([source.read(place) for place in places])).float() / 255)
        found = poison.attack(encode, before.to(wanted.device), wanted, ball=poison.ball).images.cpu()
        images = rounded(found, before, poison.ball)
        unit = F.normalize(wanted, dim=1)
        cosines = [cosine(encode, each, unit).tolist() for each in (before, images.float() / 255)]
    captions = [pairs.captions[row] for row in rows]
    report = attack_captions(captions, seed=poison.seed) if poison.captions else _untouched(captions)
    noise = psnr(before, images.float() / 255).tolist()
    return images, [
        AttackedPair(
            pairs.ids[row], names[i], cosines[0][i], cosines[1][i], noise[i] if math.isfinite(noise[i]) else None,
            captions[i], report.captions[i], report.captions[i] != captions[i],
            tuple((change.was, change.now) for change in report.changes[i]),
        ) for i, row in enumerate(rows)
    ]  # fmt: skip


def target_of(row: int, pairs: CaptionedImages, targets: Targets | None, seed: int) -> int:
    """The image that a pair is moved to: it depends on seed and id, not on the share. Raises `DataError` for none."""
    generator = stream(seed, "poison target", pairs.ids[row])
    if targets is not None:
        return int(torch.randint(len(targets.ids), (1,), generator=generator))
    kinds: Sequence[object] = pairs.captions if pairs.labels is None else pairs.labels
    for place in torch.randint(len(pairs), (100,), generator=generator).tolist():
        if kinds[place] != kinds[row]:
            return place
    others = [place for place, kind in enumerate(kinds) if kind != kinds[row]]
    if not others:
        what = "caption" if pairs.labels is None else "class"
        raise DataError(f"all images of {pairs.source} have one {what}, so none can be a target; pass --target")
    return others[int(torch.randint(len(others), (1,), generator=generator))]


def eight_bit(images: Images) -> Bytes:
    """The nearest grey levels."""
    return (images * 255).round().to(torch.uint8)


def rounded(images: Images, centres: Images, ball: Ball) -> Bytes:
    """Attacked images in whole grey levels, still within the ball around centres of whole levels.

    In l_inf these are the nearest such images. In l2, where rounding leaves the ball, the change is shrunk before it is
    rounded, by as little as halving finds.
    """
    offset = (images - centres) * 255
    if ball.norm == "linf":
        most = math.floor(ball.eps * 255 + 1e-6)
        levels = offset.round().clamp(-most, most)
    else:
        levels = _shrunk(offset, ball.eps * 255)
    return (centres * 255 + levels).round().clamp(0, 255).to(torch.uint8)


def _shrunk(offset: Images, radius: float) -> Images:
    def outside(share: Tensor) -> Tensor:
        lengths = torch.linalg.vector_norm((share * offset).round().flatten(1), dim=1, dtype=torch.float64)
        return (lengths > radius).view(-1, 1, 1, 1)

    low, high = torch.zeros(len(offset), 1, 1, 1), torch.ones(len(offset), 1, 1, 1)
    for _ in range(20):
        middle = (low + high) / 2
        out = outside(middle)
        low, high = torch.where(out, low, middle), torch.where(out, middle, high)
    return (low * offset).round()


def _untouched(captions: Sequence[str]) -> CaptionReport:
    return CaptionReport(tuple(captions), tuple(() for _ in captions))
