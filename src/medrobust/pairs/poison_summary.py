"""The summary of captioned images of which a share is attacked, as poison.json keeps it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medrobust.pairs.poison import VERSION, AttackedPair
from medrobust.version import __version__


@dataclass(frozen=True)
class CopiedPairs:
    """The data that were copied: `sha256` of ids and captions, and the ids that were left out."""

    data: str
    split: str
    pairs: int
    sha256: str
    without_caption: tuple[str, ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class TargetImages:
    """Another collection that images were moved to."""

    data: str
    images: int


@dataclass(frozen=True)
class AttackedShare:
    """The share of pairs that was asked for, and the nearest that whole pairs allow."""

    asked: float
    reached: float


@dataclass(frozen=True)
class AttackedModel:
    """The model whose features the attack moves, and the side of its images in pixels."""

    name: str
    sha256: str | None
    pixels: int


@dataclass(frozen=True)
class PairAttack:
    """The parts that were attacked, and the attack on images; `eps` and `step` in pixels of [0, 1]."""

    images: bool
    captions: bool
    norm: str
    eps: float
    steps: int
    step: float | None
    decay: bool
    keep_grey: bool


@dataclass(frozen=True)
class AttackedCounts:
    """Attacked pairs, captions that could and could not be changed, and means over those known (PSNR in dB)."""

    attacked: int
    captions_changed: int
    captions_unchanged: int
    cosine_before: float | None
    cosine_after: float | None
    psnr: float | None


@dataclass(frozen=True)
class CopiedCounts:
    """All pairs of the copy, images left out, and the counts of the attacked pairs."""

    pairs: int
    without_caption: int
    skipped: int
    attacked: AttackedCounts

    def to_json(self) -> dict[str, Any]:
        """Plain values at one level."""
        left = {"pairs": self.pairs, "without_caption": self.without_caption, "skipped": self.skipped}
        return left | asdict(self.attacked)


@dataclass(frozen=True)
class PoisonSummary:
    """A copy of captioned images: where it comes from, how it was attacked, and what was done to each pair."""

    source: CopiedPairs
    target: TargetImages | None
    seed: int
    share: AttackedShare
    model: AttackedModel
    attack: PairAttack
    counts: CopiedCounts
    pairs: tuple[AttackedPair, ...]
    schema_version: int = VERSION
    medrobust: str = __version__

    def to_json(self, *, pairs: bool = True) -> dict[str, Any]:
        """Plain values, as in poison.json; without the single pairs where they are not wanted."""
        head = {"schema_version": self.schema_version, "medrobust": self.medrobust}
        parts = {name: value for name, value in asdict(self).items() if name not in head}
        every = head | parts | {"counts": self.counts.to_json()}
        return every if pairs else {name: value for name, value in every.items() if name != "pairs"}

    def sentence(self, out: Path) -> str:
        """The attack in one line for a terminal."""
        counts, done = self.counts, self.counts.attacked
        parts = [f"{out}: {done.attacked} of {counts.pairs} pairs attacked"]
        if done.cosine_after is not None and done.cosine_before is not None:
            parts.append(f"cosine to the target {done.cosine_before:.3f} before, {done.cosine_after:.3f} after")
        if done.psnr is not None:
            parts.append(f"PSNR {done.psnr:.1f} dB")
        if self.attack.captions:
            parts.append(f"captions changed {done.captions_changed}, not changed {done.captions_unchanged}")
        left = [(counts.without_caption, "without a caption"), (counts.skipped, "skipped")]
        shown = [f"{count} {text}" for count, text in left if count]
        return "; ".join(parts + ([f"left out: {', '.join(shown)}"] if shown else []))


def count_attacked(done: Sequence[AttackedPair]) -> AttackedCounts:
    """Counts and means over attacked pairs."""
    changed = sum(pair.caption_changed for pair in done)
    return AttackedCounts(
        attacked=len(done),
        captions_changed=changed,
        captions_unchanged=len(done) - changed,
        cosine_before=_mean([pair.cosine_before for pair in done]),
        cosine_after=_mean([pair.cosine_after for pair in done]),
        psnr=_mean([pair.psnr for pair in done]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
