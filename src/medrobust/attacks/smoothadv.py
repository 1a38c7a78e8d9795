"""SmoothAdv: the attack on a smoothed classifier. Also checks a certificate, inside whose radius it must never succeed.

Reference: Salman, Li, Razenshteyn, Zhang, Zhang, Bubeck and Yang, "Provably robust deep learning via adversarially
trained smoothed classifiers", NeurIPS 2019, arXiv 1906.04584, section 2.2 (the plug-in estimate of the gradient).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from medrobust.attacks.ball import unit
from medrobust.attacks.errors import AttackError, NoGradientError
from medrobust.types import Classifier, Image, Images

Noise = Float[Tensor, "draws 3 h w"]

_PULL = 2.0  # ours: all steps together are this many radii long


def smooth_adv(
    classifier: Classifier,
    image: Image,
    label: int,
    *,
    radius: float,
    sigma: float,
    draws: int = 32,
    steps: int = 10,
    restarts: int = 2,
    generator: torch.Generator,
    batch: int = 64,
    fresh: bool = False,
    clip: bool = False,
) -> Image:
    """The image within l2 distance `radius` on which the classes other than `label` win most of the smoothed softmax.

    Minimises the mean over i of softmax_label(x + sigma e_i) by normalised-gradient steps, from the image itself, then
    from random points of the ball. The same noise serves all steps, or new noise each (`fresh`). The points found
    compete on noise none of them has seen. The distance, measured in float64, is below `radius`; pixels leave [0, 1]
    unless `clip`. At most `batch` noisy copies are differentiated at a time. Radius and sigma in pixels of [0, 1].
    Raises AttackError for numbers that make no attack, NoGradientError where no gradient reaches the pixels.
    """
    if not (math.isfinite(radius) and radius > 0 and sigma >= 0):
        raise AttackError(f"radius is {radius:g} and sigma {sigma:g}; radius must be above 0, sigma not below 0")
    if min(draws, steps, restarts, batch) < 1:
        raise AttackError("draws, steps, restarts and batch must all be at least 1")
    noise = _noise(image, sigma, draws, generator)
    best, lowest = image.clone(), math.inf
    unseen = _noise(image, sigma, draws, generator)
    for restart in range(restarts):
        start = image if restart == 0 else _random(image, radius, generator)
        point = within(start, image, radius, clip=clip)
        for _ in range(steps):
            current = _noise(image, sigma, draws, generator) if fresh else noise
            downhill = -unit(_gradient(classifier, point, label, current, batch)[None])[0]
            point = within(point + _PULL * radius / steps * downhill, image, radius, clip=clip)
        found = log_odds(classifier, point, label, unseen, batch)
        if found < lowest:
            best, lowest = point, found
    return best


def within(point: Image, centre: Image, radius: float, *, clip: bool = False) -> Image:
    """The point, drawn towards the centre until its distance, measured in float64, is below `radius`."""
    offset = (point.double() - centre.double()).nan_to_num()
    length = float(torch.linalg.vector_norm(offset))
    share = min(1.0, radius / length) if length > 0 else 1.0
    loss = 0.0
    while True:  # float32 pixels round: draw in by a little more until that no longer matters
        moved = (centre.double() + share * (1 - loss) * offset).to(centre.dtype)
        moved = moved.clamp(0, 1) if clip else moved
        if float(torch.linalg.vector_norm(moved.double() - centre.double())) < radius:
            return moved
        loss = min(1.0, 4 * loss or 1e-7)


@torch.no_grad()
def log_odds(classifier: Classifier, image: Image, label: int, noise: Noise, batch: int) -> float:
    """log p - log(1 - p) of the mean p over the noise of the probability of `label`; lower is a stronger attack."""
    margins = torch.cat([_margins(classifier, image + part, label) for part in noise.split(batch)])
    return float(logsigmoid(margins).logsumexp(dim=0) - logsigmoid(-margins).logsumexp(dim=0))


def _gradient(classifier: Classifier, image: Image, label: int, noise: Noise, batch: int) -> Image:
    """d/dx sum_i p_i up to a factor: sum_i p_i (1 - p_i) d/dx margin_i, weighed in logarithms, so that none underflows.

    Each part's weights are relative to its largest; `largest` is that of all parts so far.
    """
    largest, gradient = -math.inf, torch.zeros_like(image)
    for part in noise.split(batch):
        pixels = image.clone().requires_grad_(True)
        with torch.enable_grad():
            margins = _margins(classifier, pixels + part, label)
            if not margins.requires_grad:
                raise NoGradientError("no gradient reaches the pixels, so SmoothAdv cannot attack this classifier")
            weights = (logsigmoid(margins) + logsigmoid(-margins)).detach()
            here = float(weights.max())
            (slope,) = torch.autograd.grad(((weights - here).exp() * margins).sum(), pixels)
        largest, before = max(largest, here), largest
        gradient = math.exp(before - largest) * gradient + math.exp(here - largest) * slope.nan_to_num()
    return gradient


def _margins(classifier: Classifier, images: Images, label: int) -> Float[Tensor, " draws"]:
    """Log-odds of `label`: its logit less the log-sum-exp of the others; its probability is their logistic."""
    logits = classifier(images).double()
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1)
    return (logits[:, label] - others.logsumexp(dim=1)).nan_to_num(0.0, 1e4, -1e4)


def _noise(image: Image, sigma: float, draws: int, generator: torch.Generator) -> Noise:
    return sigma * torch.randn(draws, *image.shape, generator=generator).to(image.device)


def _random(image: Image, radius: float, generator: torch.Generator) -> Image:
    """Uniform in the ball."""
    direction = unit(torch.randn(1, *image.shape, generator=generator))[0].to(image.device)
    return image + radius * float(torch.rand((), generator=generator)) ** (1 / image.numel()) * direction
