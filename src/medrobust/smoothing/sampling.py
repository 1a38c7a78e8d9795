"""One pass over the noise: how often each classifier answers what, when one image is noisy.

The features of a noisy image do not depend on the head, so classifiers with equal `encode` share every encoder pass.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medrobust.smoothing.noise import Noise
from medrobust.types import Classifier, Features, Image, Images, Logits

Votes = Int[Tensor, "classifiers answers"]  # answers: the classes, then one column for logits that are not finite


@torch.inference_mode()
def count_votes(
    classifiers: Sequence[Classifier], image: Image, *, sigma: float, trials: int, batch: int, noise: Noise
) -> Votes:
    """Votes of every classifier over the same `trials` noisy copies of one image.

    Noise is added in float32 and not clipped. Every batch has `batch` copies, the last one filled up, because results
    of a network differ in their last bits between batch sizes. A vote with NaN or infinite logits counts in the last
    column, for no class.
    """
    shared = encoders(classifiers)
    votes: list[Tensor] = [torch.zeros(0, dtype=torch.int64)] * len(classifiers)
    for start in range(0, trials, batch):
        wanted = min(batch, trials - start)
        noisy = image + sigma * _filled(noise(wanted), batch)
        for encode, users in shared:
            features = encode(noisy)[:wanted]
            for number in users:
                logits = classifiers[number].head(features)
                seen = _tally(logits)
                votes[number] = seen if start == 0 else votes[number] + seen
    return torch.stack(votes).cpu()


def encoders(classifiers: Sequence[Classifier]) -> list[tuple[Callable[[Images], Features], list[int]]]:
    """The different encoders, each with the places of the classifiers that use it."""
    groups: list[tuple[Callable[[Images], Features], list[int]]] = []
    for number, classifier in enumerate(classifiers):
        for encode, users in groups:
            if encode == classifier.encode:
                users.append(number)
                break
        else:
            groups.append((classifier.encode, [number]))
    return groups


def answers(logits: Logits) -> Int[Tensor, " batch"]:
    """The class with the largest logit; one past the last class where a logit is NaN or infinite."""
    finite = logits.isfinite().all(dim=1)
    return torch.where(finite, logits.nan_to_num().argmax(dim=1), logits.shape[1])


def _tally(logits: Logits) -> Int[Tensor, " answers"]:
    return torch.bincount(answers(logits), minlength=logits.shape[1] + 1)


def _filled(draws: Float[Tensor, "draws 3 h w"], batch: int) -> Float[Tensor, "batch 3 h w"]:
    missing = batch - len(draws)
    return draws if missing == 0 else torch.cat([draws, draws.new_zeros(missing, *draws.shape[1:])])
