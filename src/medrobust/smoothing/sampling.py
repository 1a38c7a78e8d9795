"""Answers of any number of classifiers to noisy copies of one image, in one pass over the noise.

The features of a noisy image do not depend on the head, so classifiers with equal `encode` share every encoder pass,
and heads that compare with directions share one matrix product.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from medrobust.smoothing.noise import Noise, noise
from medrobust.types import Classifier, DirectionHead, Encoder, Features, Image, Logits

Answers = Int[Tensor, "batch classifiers"]  # the class, or -1 where a logit is NaN or infinite


@runtime_checkable
class NoisyEncoder(Protocol):
    """Features of noisy copies of one image, from standard normal numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the numbers that one copy takes."""

    @property
    def kernel(self) -> str:
        """Name of the code that computes it, for a run's record."""

    def at(self, image: Image, sigma: float) -> Callable[[Float[Tensor, "batch *shape"]], Features]:
        """Fix the image and the noise level once, then encode batch after batch."""


@dataclass(frozen=True)
class PixelNoise:
    """Any encoder: noise is added to the pixels in float32, not clipped, and the whole image encoded."""

    encode: Encoder
    shape: tuple[int, ...]
    kernel: str = "whole images"

    def at(self, image: Image, sigma: float) -> Callable[[Float[Tensor, "batch *shape"]], Features]:
        """See `NoisyEncoder`."""
        return lambda draws: self.encode(image + sigma * draws)


@dataclass
class Sampler:
    """The batch size and the code that encode noisy copies in a run; decided once and kept.

    `batch` is part of what is certified, because a network's results differ by rounding between batch sizes: every
    batch has that size, the last one filled up. `make(encode, image)` returns a faster encoder with the same output.
    `again(encode)` does the same for a copy with other weights (`Encoder.like`); it reuses what `make` decided and
    checks nothing.
    """

    batch: int = 64
    make: Callable[[Encoder, Image], NoisyEncoder] | None = None
    again: Callable[[Encoder], NoisyEncoder] | None = None
    _made: list[tuple[Encoder, tuple[int, ...], NoisyEncoder]] = field(default_factory=list)

    def encoder(self, encode: Encoder, image: Image) -> NoisyEncoder:
        """The noisy encoder of `encode` for images of this size, made at its first use. An adapted one is not kept."""
        size = tuple(image.shape)
        if encode.like is not None:
            like = self.encoder(encode.like, image)
            if isinstance(like, PixelNoise) or self.again is None:
                return PixelNoise(encode, size)
            return self.again(encode)
        for known, shape, made in self._made:
            if known == encode and shape == size:
                return made
        made = PixelNoise(encode, size) if self.make is None else self.make(encode, image)
        self._made.append((encode, size, made))
        return made

    @property
    def kernels(self) -> list[str]:
        """Names of the code that has computed so far, for a run's record."""
        return sorted({made.kernel for _, _, made in self._made})


@dataclass(frozen=True)
class Draws:
    """Noise to draw: `trials` copies of an image at sigma, from the stream of (seed, use, item, sigma)."""

    sigma: float
    trials: int
    use: str
    seed: int
    item: str


class Copies:
    """Noisy copies of one image, answered by several classifiers batch after batch."""

    def __init__(self, classifiers: Sequence[Classifier], image: Image, sampler: Sampler) -> None:
        self._image, self._sampler = image, sampler
        self._groups = [
            (sampler.encoder(encode, image), _Heads([classifiers[number] for number in users], users))
            for encode, users in encoders(classifiers)
        ]

    @torch.inference_mode()
    def answers(
        self, draws: Draws, running: Callable[[], Bool[Tensor, " classifiers"]]
    ) -> Iterator[list[tuple[list[int], Answers]]]:
        """For each batch of copies: the places of classifiers that share an encoder, and what they answer.

        A group is encoded as long as one of its classifiers is running; all end when none is. Encoders that take
        noise of the same shape see the same noise, which does not depend on the other classifiers.
        """
        streams: dict[tuple[int, ...], Noise] = {}
        encode = [encoder.at(self._image, draws.sigma) for encoder, _ in self._groups]
        for start in range(0, draws.trials, self._sampler.batch):
            alive = running()
            wanted = min(self._sampler.batch, draws.trials - start)
            fresh: dict[tuple[int, ...], Tensor] = {}
            found = []
            for (encoder, heads), features_of in zip(self._groups, encode, strict=True):
                if not alive[heads.places].any():
                    continue
                shape = encoder.shape
                if shape not in streams:
                    streams[shape] = self._stream(shape, draws)
                if shape not in fresh:
                    fresh[shape] = _filled(streams[shape](wanted), self._sampler.batch)
                found.append((heads.places, heads(features_of(fresh[shape])[:wanted])))
            if not found:
                return
            yield found

    def _stream(self, shape: tuple[int, ...], draws: Draws) -> Noise:
        return noise(
            shape, self._image.device, seed=draws.seed, use=draws.use, item=draws.item, sigma=draws.sigma
        )  # fmt: skip


def encoders(classifiers: Sequence[Classifier]) -> list[tuple[Encoder, list[int]]]:
    """The different encoders, each with the places of the classifiers that use it."""
    groups: list[tuple[Encoder, list[int]]] = []
    for number, classifier in enumerate(classifiers):
        for encode, users in groups:
            if encode == classifier.encode:
                users.append(number)
                break
        else:
            groups.append((classifier.encode, [number]))
    return groups


def answers(logits: Logits) -> Int[Tensor, " batch"]:
    """The class with the largest logit; -1 where a logit is NaN or infinite."""
    return torch.where(logits.isfinite().all(dim=1), logits.nan_to_num().argmax(dim=1), -1)


class _Heads:
    """The heads of one encoder: those that compare with directions stacked into one matrix, the others one by one."""

    def __init__(self, classifiers: Sequence[Classifier], places: list[int]) -> None:
        self.places = places
        self._others: list[tuple[int, Callable[[Features], Logits]]] = []
        stacks: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
        for row, classifier in enumerate(classifiers):
            head: object = classifier.head
            if isinstance(head, DirectionHead):
                stacks.setdefault(tuple(head.directions.shape), []).append((row, head.directions))
            else:
                self._others.append((row, classifier.head))
        self._stacks = [  # classes before classifiers: the largest of few is then found for many at once
            ([row for row, _ in members], torch.stack([directions for _, directions in members], dim=1))
            for members in stacks.values()
        ]

    def __call__(self, features: Features) -> Answers:
        found = torch.empty(len(features), len(self.places), dtype=torch.int64, device=features.device)
        for row, head in self._others:
            found[:, row] = answers(head(features))
        for rows, stack in self._stacks:
            logits = (features @ stack.flatten(0, 1).T).view(len(features), *stack.shape[:2])
            largest, best = logits.max(dim=1)  # many times faster than argmax, and NaN where one of them is
            found[:, rows] = torch.where(largest.isfinite(), best, -1)
        return found


def _filled(draws: Float[Tensor, "draws *shape"], batch: int) -> Float[Tensor, "batch *shape"]:
    missing = batch - len(draws)
    return draws if missing == 0 else torch.cat([draws, draws.new_zeros(missing, *draws.shape[1:])])
