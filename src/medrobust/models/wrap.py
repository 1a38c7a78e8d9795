"""A user's own image classifier, any torch module, as a model: its features are its logits."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from medrobust.errors import ModelError
from medrobust.models.trial import check_answers, check_evaluation, fingerprint, trial_images
from medrobust.models.wrapped_encoder import WrappedEncoder
from medrobust.models.wrapped_tower import (
    Channels,
    WrappedTower,
    device_of,
    numbers_of,
    own_pixels,
    preprocess_of,
)
from medrobust.types import Classifier, Context, DeepContext, Features, Logits, Preprocess, PromptShape

_LOGITS = "pass output=, a function from what the network returns to its logits of shape (images, classes)"


@dataclass(frozen=True, eq=False)
class WrappedClassifier:
    """A user's own image classifier; see `medrobust.types.ImageModel`.

    It has no text encoder: the defence `undefended` is its own answer, and heads learn on top of its logits. Whatever
    needs prompts is refused by ModelError.
    """

    name: str
    sha256: str  # of weights, buffers, classes and pre-processing, as they were when it was wrapped
    classes: tuple[str, ...]
    preprocess: Preprocess
    vision: nn.Module
    device: torch.device
    licence: str | None = None
    revision: str | None = None
    logit_scale: float = 1.0  # its logits are its own

    def __call__(self, images: Tensor) -> Logits:
        """Logits of images in [0, 1].

        Raises ModelError for pixels outside of [0, 1].
        """
        low, high = (float(images.min()), float(images.max())) if images.numel() else (0.0, 0.0)
        if not (low >= 0 and high <= 1):
            raise ModelError(
                f"{self.name} got pixels from {low:g} to {high:g}, expected 0 to 1; divide grey levels by 255, and "
                "leave mean and std to wrap(mean=.., std=..)"
            )
        return self.encode_image(images)

    @property
    def classifier(self) -> Classifier:
        """The network as it is, for certificates and attacks."""
        return Classifier(self.encode_image, own_logits)

    @property
    def encode_image(self) -> WrappedEncoder:
        """The network; its features are its logits."""
        return WrappedEncoder(self.vision, self.preprocess.size, self.device, self.name)

    def with_vision(self, vision: nn.Module) -> "WrappedClassifier":
        """The same classes under another network."""
        return replace(self, vision=vision.eval())

    def encode_text(
        self,
        texts: Sequence[str],  # noqa: ARG002 - the signature of every model
        context: Context | None = None,  # noqa: ARG002
        deep: DeepContext | None = None,  # noqa: ARG002
    ) -> NoReturn:
        """Raises ModelError: there is no text encoder."""
        raise self._no_texts()

    def embed_words(self, text: str) -> NoReturn:  # noqa: ARG002
        """Raises ModelError: there is no text encoder."""
        raise self._no_texts()

    def prompt_shape(self) -> PromptShape:
        """Raises ModelError: there is no text encoder."""
        raise self._no_texts()

    def _no_texts(self) -> ModelError:
        return ModelError(
            f"{self.name} is an image classifier without a text encoder, and this defence needs prompts; take "
            "undefended (the classifier as it is), or a head on its logits: linear-probe, mlp-probe, full-fine-tune"
        )


def own_logits(features: Features) -> Logits:
    """The head of a classifier whose features are its logits."""
    return features


def wrap(
    module: nn.Module,
    *,
    classes: Sequence[str],
    preprocess: Preprocess | int,
    input: Channels = "colour",
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    output: Callable[[Any], Tensor] | None = None,
    name: str | None = None,
    licence: str | None = None,
) -> WrappedClassifier:
    """Any torch module that gives one logit a class, as a model that can be certified, attacked and compared.

    `preprocess`: the side of its images in pixels, or a `Preprocess`. Images are in [0, 1]; `mean` and `std` are
    taken inside, and left out where the module normalises by itself. `input="grey"`: the module takes one channel,
    the mean of the three. `output` finds the logits in what the module returns, where that is neither a tensor nor
    an object with `logits`. The module stays the user's: it is called in evaluation mode and never changed.

    Two images are tried. Raises ModelError for training mode, for a number of logits other than that of `classes`,
    for answers that are not finite, not steady, probabilities, or that depend on the other images of a batch.
    """
    called = name or type(module).__name__
    check_evaluation(module, called)
    names = _class_names(called, classes)
    pixels, size = own_pixels(called, input, mean, std), preprocess_of(called, preprocess)
    tower = WrappedTower(module, "__call__", pixels, partial(_logits, called, output))
    described = f"classifier {names} {pixels[1:]} {asdict(size)}"
    sha256 = fingerprint(described, [module])
    model = WrappedClassifier(called, sha256, names, size, tower, device_of(module), licence)
    logits = check_answers(
        model.encode_image, trial_images(size.size, model.device), name=called, what="logits"
    )  # fmt: skip
    _check_logits(logits, called, names)
    if fingerprint(described, [module]) != sha256:
        raise ModelError(
            f"{called} changes its own weights or buffers when it answers; freeze what it counts or adapts"
        )
    return model


def _class_names(name: str, classes: Sequence[str]) -> tuple[str, ...]:
    names = () if isinstance(classes, str) else tuple(classes)
    if len(names) < 2 or not all(isinstance(one, str) and one.strip() for one in names):
        raise ModelError(f"{name}: classes is {classes!r}, expected two names or more, in the order of the logits")
    twice = sorted({one for one in names if names.count(one) > 1})
    if twice:
        raise ModelError(f"{name}: classes names {twice[0]!r} twice; every logit needs a name of its own")
    return names


def _logits(name: str, output: Callable[[Any], Tensor] | None, found: Any) -> Tensor:
    return numbers_of(found if output is None else output(found), ("logits",), name=name, advice=_LOGITS)


def _check_logits(logits: Tensor, name: str, classes: Sequence[str]) -> None:
    if logits.shape[1] == 1 and len(classes) == 2:
        raise ModelError(
            f"{name} returned one number an image for the two classes {', '.join(classes)}; where it is the logit of "
            f"{classes[1]!r}, pass output=lambda z: torch.cat([torch.zeros_like(z), z], dim=1)"
        )
    if logits.shape[1] != len(classes):
        raise ModelError(
            f"{name} returned {logits.shape[1]} logits an image for {len(classes)} classes ({', '.join(classes)}); "
            "name every class, in the order of the logits"
        )
    if bool((logits >= 0).all()) and bool(((logits.sum(dim=1) - 1).abs() < 1e-4).all()):
        raise ModelError(
            f"{name} returned probabilities (each row adds up to 1), which blunt attacks; wrap the network without its "
            "softmax, or pass output=torch.log"
        )
