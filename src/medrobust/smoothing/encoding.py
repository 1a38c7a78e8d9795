"""Chooses how a run encodes noisy copies: the lean path or the model's own forward, the batch size, and compiling.

Decided once, when a run begins, and kept in its record: a resumed run does not measure again.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from medrobust.errors import SmoothingError
from medrobust.seeds import stream
from medrobust.smoothing.certify import Smoothing
from medrobust.smoothing.fast_vit import compiler_missing, compiling_pays, difference, lean_encoder
from medrobust.smoothing.sampling import Copies, Draws, NoisyEncoder, PixelNoise, Sampler
from medrobust.types import Classifier, Encoder, Image
from medrobust.types.vit import NotAViT

BATCHES = {"cpu": (8, 16, 32, 64, 128), "other": (256, 512, 1024, 2048, 4096)}
_EQUAL = 1e-4  # largest relative difference of features between the lean path and the model's own
_ALIKE = 0.1  # the same for 16-bit numbers, which make another network of it
_WORTH_COMPILING = 600.0  # seconds of encoding; compiling takes about one minute
_TYPICAL = 400  # draws an image, where sampling stops early

Say = Callable[[str], None]


@dataclass(frozen=True)
class EncoderChoice:
    """The wanted batch size, number format and code of the encoder; None: decide by measuring."""

    batch: int | None = None
    lean: bool = True
    compile: bool | None = None
    dtype: torch.dtype = torch.float32


def choose_sampler(
    classifiers: Sequence[Classifier],
    image: Image,
    wanted: EncoderChoice,
    *,
    smoothings: Sequence[Smoothing],
    images: int,
    say: Say = lambda _text: None,
) -> Sampler:
    """A sampler ready for these classifiers, nothing left open; `images` tells how long the run will be.

    Raises SmoothingError where `wanted` cannot be had: a number format or a compilation without the lean path.
    """
    first = smoothings[0]
    plain = replace(wanted, compile=False)
    make = _maker(plain, say)
    batch = wanted.batch or _best_batch(classifiers, image, first, make)
    compiled = wanted.compile
    if compiled is None and _pays(classifiers, wanted):
        copies = images * sum(sum(_typical(smoothing)) for smoothing in smoothings)
        compiled = copies * seconds_a_copy(classifiers, image, first, Sampler(batch, make)) > _WORTH_COMPILING
    if compiled:
        missing = compiler_missing()
        if missing and wanted.compile:
            raise SmoothingError(f"the encoder cannot be compiled here: {missing}; leave out --compile")
        if missing:
            say(f"the encoder is not compiled: {missing}")
        compiled = not missing
    decided = replace(wanted, batch=batch, compile=True) if compiled else plain
    sampler = Sampler(batch, _maker(decided, say) if compiled else make, _again(decided))
    for classifier in classifiers:
        sampler.encoder(classifier.encode, image)
    return sampler


def lean_sampler(batch: int = 64, *, say: Say = lambda _text: None) -> Sampler:
    """A sampler that takes the lean path where it can, without measuring anything."""
    wanted = EncoderChoice(compile=False)
    return Sampler(batch, _maker(wanted, say), _again(wanted))


def _maker(wanted: EncoderChoice, say: Say) -> Callable[[Encoder, Image], NoisyEncoder]:
    said: set[str] = set()

    def make(encode: Encoder, image: Image) -> NoisyEncoder:
        try:
            return _lean(encode, image, wanted)
        except NotAViT as reason:
            if wanted.dtype != torch.float32 or wanted.compile:
                raise SmoothingError(f"only the lean path knows other number formats and compiling: {reason}") from None
            if wanted.lean and str(reason) not in said:
                said.add(str(reason))
                say(f"noisy images are encoded whole: {reason}")
            return PixelNoise(encode, tuple(image.shape), f"whole images ({reason})")

    return make


def _again(wanted: EncoderChoice) -> Callable[[Encoder], NoisyEncoder]:
    """The lean path for a tower of the same form as one that was compared before; nothing is compared anew."""

    def again(encode: Encoder) -> NoisyEncoder:
        return lean_encoder(encode.parts(), dtype=wanted.dtype, compile=bool(wanted.compile))

    return again


def _pays(classifiers: Sequence[Classifier], wanted: EncoderChoice) -> bool:
    """True where compiling can make one of the encoders faster."""
    try:
        return wanted.lean and any(compiling_pays(one.encode.parts(), wanted.dtype) for one in classifiers)
    except NotAViT:
        return False


def _lean(encode: Encoder, image: Image, wanted: EncoderChoice) -> NoisyEncoder:
    if not wanted.lean:
        raise NotAViT("the lean path was not asked for")
    found = lean_encoder(encode.parts(), dtype=wanted.dtype, compile=bool(wanted.compile))
    apart = difference(found, encode, image, 0.25, stream(0, "lean path"), batch=wanted.batch or 4)
    if wanted.dtype != torch.float32 and not apart <= _ALIKE:
        name = str(wanted.dtype).removeprefix("torch.")
        raise SmoothingError(f"in {name} the features differ from float32's by {apart:.1e}, for instance by overflow")
    if wanted.dtype == torch.float32 and not apart <= _EQUAL:
        raise NotAViT(f"the lean path's features differ from the model's by {apart:.1e}")
    return found


def _typical(smoothing: Smoothing) -> tuple[int, int]:
    """Draws of a typical image: until the class is chosen, until the count has decided."""
    counted = smoothing.budget if smoothing.stopping == "fixed" else min(_TYPICAL, smoothing.budget)
    return smoothing.selection // 2 + 1, counted


def _best_batch(
    classifiers: Sequence[Classifier],
    image: Image,
    smoothing: Smoothing,
    make: Callable[[Encoder, Image], NoisyEncoder],
) -> int:
    """The batch that takes the least time for a typical image, padding and draws after the end included."""
    costs = {}
    for batch in BATCHES["cpu" if image.device.type == "cpu" else "other"]:
        sampler = Sampler(batch, make)
        batches = sum(math.ceil(draws / batch) for draws in _typical(smoothing))
        costs[batch] = batches * batch * seconds_a_copy(classifiers, image, smoothing, sampler)
        if costs[batch] > 2 * min(costs.values()):
            break
    fastest = min(costs.values())
    return min(batch for batch, cost in costs.items() if cost <= 1.03 * fastest)


def seconds_a_copy(
    classifiers: Sequence[Classifier], image: Image, smoothing: Smoothing, sampler: Sampler, rounds: int = 4
) -> float:
    """Median over batches, the first left out; noise, heads and counting included."""
    copies = Copies(classifiers, image, sampler)
    everyone = torch.ones(len(classifiers), dtype=torch.bool)
    draws = Draws(smoothing.sigma, (rounds + 1) * sampler.batch, "probe", 0, "probe")
    taken = [seconds / sampler.batch for seconds in _timed(copies.answers(draws, lambda: everyone), image.device)]
    return statistics.median(taken[1:])


def _timed(batches: Iterable[object], device: torch.device) -> Iterable[float]:
    began = time.perf_counter()
    for _ in batches:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        yield now - began
        began = now
