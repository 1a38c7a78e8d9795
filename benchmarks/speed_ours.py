"""medrobust's own certification of one image, ready to be timed: `smoothing.certify` with a fixed number of draws."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from speed_networks import ARCHITECTURES, CLASSES, MEAN, STD, TOKENS, network, picture

from medrobust.defences.heads import CosineHead
from medrobust.models.clip import Clip, clip_tower, silent
from medrobust.smoothing.certify import Smoothing, certify
from medrobust.smoothing.fast_vit import lean_encoder
from medrobust.smoothing.sampling import NoisyEncoder, Sampler
from medrobust.types import Classifier, Encoder, Features, Image, Preprocess

TIMED = (
    *(f"benchmarks/speed_{name}.py" for name in ("ours", "networks", "gemm")),
    *(f"src/medrobust/smoothing/{name}.py" for name in ("certify", "sampling", "noise", "fast_vit", "blocks")),
)


@dataclass
class Ours:
    """One network, its image, and the lean encoders made of it so far."""

    name: str
    clip: Clip = field(init=False)
    _samplers: dict[tuple[bool, int], Sampler] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clip = as_clip(self.name)

    def certify(self, draws: int, batch: int, *, compiled: bool, heads: int = 1) -> int:
        """Choose a class from one batch of draws, count `draws`, say how many copies were encoded."""
        classifiers = with_heads(self.clip.encode_image, ARCHITECTURES[self.name].dim, heads)
        return certified(classifiers, picture(self.name), self.sampler(batch, compiled=compiled), draws)

    def sampler(self, batch: int, *, compiled: bool) -> Sampler:
        """The lean encoder, made once for each way to run it."""

        def make(_encode: Encoder, _image: Image) -> NoisyEncoder:
            return lean_encoder(self.clip.encode_image.parts(), compile=compiled)

        return self._samplers.setdefault((compiled, batch), Sampler(batch, make))


@dataclass(frozen=True)
class Stored:
    """An encoder whose features are known already: what is left of a certificate when encoding costs nothing."""

    features: Features
    shape: tuple[int, ...] = (1,)
    kernel: str = "stored"

    def at(self, image: Image, sigma: float) -> Callable[[torch.Tensor], Features]:  # noqa: ARG002
        """See `NoisyEncoder`."""
        return lambda draws: self.features[: len(draws)]


def certified(classifiers: list[Classifier], image: Image, sampler: Sampler, draws: int) -> int:
    """One certificate a classifier; how many copies were encoded."""
    smoothing = Smoothing(0.25, selection=sampler.batch, budget=draws, stopping="fixed")
    certify(classifiers, image, smoothing, seed=0, item="speed", sampler=sampler)
    return sampler.batch * (1 + -(-draws // sampler.batch))


def with_heads(encode: Encoder, dim: int, heads: int) -> list[Classifier]:
    """So many prompt sets of nine classes, in random directions."""
    generator = torch.Generator().manual_seed(3)
    directions = F.normalize(torch.randn(heads, CLASSES, dim, generator=generator), dim=-1)
    return [Classifier(encode, CosineHead(each, 100.0)) for each in directions]


def as_clip(name: str) -> Clip:
    """The random network as medrobust's own models are; its tokenizer is never asked."""
    with silent():
        found = network(name)
    size = ARCHITECTURES[name].vision["image_size"]
    return Clip(
        name=name,
        sha256="",
        licence="",
        preprocess=Preprocess(size, size),
        logit_scale=100.0,
        context_length=TOKENS,
        vision=clip_tower(found.vision_model, found.visual_projection, MEAN, STD).eval(),
        text=found.text_model,
        text_projection=found.text_projection,
        tokenize=lambda _text: [0, 1],
    )
