"""A user's own vision-language model, already in memory (one of open_clip, for instance), from its functions."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medrobust.errors import ModelError, PromptError
from medrobust.models.trial import attempted, check_answers, check_evaluation, fingerprint, trial_images
from medrobust.models.wrapped_encoder import WrappedEncoder
from medrobust.models.wrapped_tower import (
    Channels,
    FunctionTower,
    WrappedTower,
    device_of,
    dtype_of,
    numbers_of,
    own_pixels,
    preprocess_of,
)
from medrobust.types import Context, DeepContext, Preprocess

_PROMPTS = ("a photo of a cat.", "an X-ray of a chest.")
_FEATURES = "give a function that returns features of shape (inputs, dim)"


@dataclass(frozen=True, eq=False)
class WrappedClip:
    """A user's own dual encoder; see `medrobust.types.VisionLanguageModel`.

    Texts are encoded whole, so hand-written prompts, votes of them, and heads on the features work. Learned
    vectors before a text are refused by ModelError.
    """

    name: str
    sha256: str  # of weights, buffers and pre-processing, as they were when it was wrapped
    preprocess: Preprocess
    logit_scale: float
    vision: nn.Module
    texts: Callable[[list[str]], Tensor]
    device: torch.device
    licence: str | None = None
    revision: str | None = None

    @property
    def encode_image(self) -> WrappedEncoder:
        """The image encoder; its features are not normalised."""
        return WrappedEncoder(self.vision, self.preprocess.size, self.device, self.name)

    def with_vision(self, vision: nn.Module) -> "WrappedClip":
        """The same text encoder beside another image encoder."""
        return replace(self, vision=vision.eval())

    @torch.no_grad()
    def encode_text(
        self, texts: Sequence[str], context: Context | None = None, deep: DeepContext | None = None
    ) -> Float[Tensor, "texts dim"]:
        """Text features, not normalised.

        Raises ModelError for a learned context, PromptError where the tokenizer reads two texts alike.
        """
        if context is not None or deep is not None:
            raise self._no_tokens()
        return self.texts(list(texts))

    def embed_words(self, text: str) -> NoReturn:  # noqa: ARG002 - as every model's
        """Raises ModelError: token embeddings are inside of the user's function."""
        raise self._no_tokens()

    def prompt_shape(self) -> NoReturn:
        """Raises ModelError: tokens are inside of the user's functions."""
        raise self._no_tokens()

    def _no_tokens(self) -> ModelError:
        return ModelError(
            f"{self.name} was wrapped from functions, which take no learned prompts; load its checkpoint by "
            "medrobust.load, or take a defence without them: zero-shot, vote, linear-probe, mlp-probe"
        )


def wrap_clip(
    encode_image: Callable[[Any], Any],
    encode_text: Callable[..., Any],
    tokenizer: Callable[[list[str]], Any] | None = None,
    *,
    preprocess: Preprocess | int,
    logit_scale: float | Tensor,
    module: nn.Module | None = None,
    input: Channels = "colour",
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    name: str | None = None,
    licence: str | None = None,
) -> WrappedClip:
    """A dual encoder that is already loaded, from its two encoders and its tokenizer, as a vision-language model.

    `tokenizer(texts)` gives a tensor, or a mapping of tensors that `encode_text` takes by name; without one,
    `encode_text` takes the texts. Images are in [0, 1], and `mean` and `std` are taken inside. `logit_scale`:
    the factor of the cosines, exp of the parameter of that name. `module` holds the weights that plain functions
    use; a module, or a method of one, says so itself, and only its image encoder can be changed by a defence.

    Two images and two texts are tried. Raises ModelError as `wrap` does, and where features do not fit together.
    """
    owners = [owner for owner in (_owner(encode_image), _owner(encode_text)) if owner is not None]
    networks = list(dict.fromkeys([*owners, *([module] if module is not None else [])]))
    called = name or (type(networks[0]).__name__ if networks else "the model")
    if not networks or (len(owners) < 2 and module is None):
        raise ModelError(
            f"{called} comes from functions whose weights cannot be seen; pass module=, the module that they use, "
            "so that a run which goes on can tell whether it is still the same"
        )
    for network in networks:
        check_evaluation(network, called)
    scale, size = _scale(called, logit_scale), preprocess_of(called, preprocess)
    pixels, device = own_pixels(called, input, mean, std), device_of(networks[0])
    described = f"dual encoder {scale!r} {pixels[1:]} {asdict(size)}"
    tower = _tower(encode_image, pixels, partial(_features, called, "image"), dtype_of(networks[0]))
    texts = partial(_encode_texts, called, encode_text, tokenizer, device)
    model = WrappedClip(called, fingerprint(described, networks), size, scale, tower, texts, device, licence)
    images = check_answers(model.encode_image, trial_images(size.size, device), name=called, what="image features")
    _check_texts(model, images.shape[1])
    if fingerprint(described, networks) != model.sha256:
        raise ModelError(
            f"{called} changes its own weights or buffers when it encodes; freeze what it counts or adapts"
        )
    return model


def _owner(function: Any) -> nn.Module | None:
    """The function itself where it is a module, or the module that it is a method of."""
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def _tower(encode_image: Any, pixels: Any, read: Callable[[Any], Tensor], dtype: torch.dtype) -> nn.Module:
    owner = _owner(encode_image)
    if owner is None:
        return FunctionTower(encode_image, pixels, read, dtype)
    return WrappedTower(owner, "__call__" if owner is encode_image else encode_image.__name__, pixels, read)


def _features(name: str, kind: str, found: Any) -> Tensor:
    names = (f"{kind}_embeds", "pooler_output")
    return numbers_of(found, names, name=f"the {kind} encoder of {name}", advice=_FEATURES)


def _encode_texts(
    name: str, encode_text: Callable[..., Any], tokenizer: Callable[[list[str]], Any] | None, device: torch.device,
    texts: list[str],
) -> Tensor:  # fmt: skip
    tokens: Any = texts if tokenizer is None else tokenizer(texts)
    if isinstance(tokens, Mapping) and all(isinstance(value, Tensor) for value in tokens.values()):
        found = encode_text(**{key: value.to(device) for key, value in tokens.items()})
    elif isinstance(tokens, Tensor):
        _check_tokens(name, texts, tokens)
        found = encode_text(tokens.to(device))
    elif tokenizer is None:
        found = encode_text(tokens)
    else:
        raise ModelError(
            f"the tokenizer of {name} returned a {type(tokens).__name__}, expected a tensor or a mapping of tensors; "
            'for one of transformers pass lambda texts: tokenizer(texts, padding=True, return_tensors="pt")'
        )
    return _features(name, "text", found).float()


def _check_tokens(name: str, texts: Sequence[str], tokens: Tensor) -> None:
    """Raise PromptError where two texts have the same tokens, as texts have that were cut off before they differ."""
    seen: dict[tuple[int, ...], str] = {}
    for index, (text, row) in enumerate(zip(texts, tokens.flatten(1).tolist(), strict=True)):
        other = seen.setdefault(tuple(row), text)
        if other != text:
            raise PromptError(
                f"the tokenizer of {name} reads {other!r} and {text!r} alike; shorten them, or spell them differently",
                index,
            )


def _scale(name: str, given: float | Tensor) -> float:
    if isinstance(given, nn.Parameter):
        raise ModelError(
            f"{name}: logit_scale is a parameter, which holds the logarithm in most models; pass a number, "
            "model.logit_scale.exp().item() for CLIPs"
        )
    try:
        scale = float(given.detach() if isinstance(given, Tensor) else given)
    except (TypeError, ValueError, RuntimeError):
        scale = math.nan
    if not (scale > 0 and math.isfinite(scale)):
        raise ModelError(f"{name}: logit_scale is {given!r}, expected a positive number (about 100 for CLIPs)")
    return scale


def _check_texts(model: WrappedClip, dim: int) -> None:
    first = attempted(lambda: model.encode_text(_PROMPTS), name=model.name, what=f"the texts {_PROMPTS}")
    if first.shape != (2, dim) or not bool(first.isfinite().all()):
        raise ModelError(
            f"{model.name} gave text features of shape {tuple(first.shape)}, expected finite ones of shape (2, {dim}) "
            "as its image features have; take both encoders with their projections into the joint space"
        )
    if not torch.allclose(first, model.encode_text(_PROMPTS), rtol=1e-3, atol=1e-3):
        raise ModelError(f"{model.name} gives the same text other features each time; call .eval() on its text encoder")
