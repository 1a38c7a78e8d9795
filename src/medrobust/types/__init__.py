"""Types that the whole package shares; the legend of axes is in `axes`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medrobust.types.axes import Context as Context
from medrobust.types.axes import DeepContext as DeepContext
from medrobust.types.axes import Features as Features
from medrobust.types.axes import Image as Image
from medrobust.types.axes import Images as Images
from medrobust.types.axes import Labels as Labels
from medrobust.types.axes import Logits as Logits
from medrobust.types.axes import State as State
from medrobust.types.encoder import Encoder as Encoder
from medrobust.types.encoder import FunctionEncoder as FunctionEncoder
from medrobust.types.encoder import ModuleEncoder as ModuleEncoder
from medrobust.types.encoder import as_encoder as as_encoder

Scope = Literal["model", "tuned on input"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


class Canvas(NamedTuple):
    """A black square of at least `size` pixels that a picture is laid on, in grey.

    With `fit`, the picture's longer side is resized to `size` first (Lanczos).
    """

    size: int
    fit: bool = False


@dataclass(frozen=True)
class Preprocess:
    """Preprocessing of a picture into a model's input of `size` x `size` pixels.

    With `crop`, the shorter side is resized to `resize` and the centre is cut out; without, both sides are resized
    to `size` and the aspect ratio is lost. Normalisation is not part of it: that happens inside the model. A `canvas`
    comes before all else. Without `antialias`, the last step is bicubic on the points alone, and there is no crop.
    """

    size: int
    resize: int
    interpolation: Interpolation = "bicubic"
    crop: bool = True
    canvas: Canvas | None = None
    antialias: bool = True


class PromptShape(NamedTuple):
    """Sizes of learned prompts for a model: width of a token and number of layers, of both towers."""

    vision_width: int
    vision_layers: int
    text_width: int
    text_layers: int


@runtime_checkable
class ImageModel(Protocol):
    """A frozen image encoder with the facts that a run records; a job needs no more before a defence is applied.

    A defence with prompts asks for more: a `VisionLanguageModel`.
    """

    @property
    def name(self) -> str:
        """The name that the user gave."""

    @property
    def sha256(self) -> str:
        """Hash of its weights: a state learned for other weights is refused."""

    @property
    def licence(self) -> str | None:
        """The licence of the weights; None where it is unknown."""

    @property
    def revision(self) -> str | None:
        """The commit of the hub, where it is known."""

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing that makes a picture an `Image` for this model."""

    @property
    def device(self) -> torch.device:
        """The device that encodes images, and texts where the model reads them."""

    @property
    def vision(self) -> nn.Module:
        """The image encoder, from `Images` to `Features`, normalisation inside; its parameters stay as they are."""

    @property
    def encode_image(self) -> Encoder:
        """The image encoder as a value: `encode_image(images)` gives features, not normalised to unit length.

        Differentiable with respect to the pixels.
        """


@runtime_checkable
class HasClasses(Protocol):
    """An image model that answers by itself: its features are the logits of these classes, in this order."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, one a logit."""


@runtime_checkable
class VisionLanguageModel(ImageModel, Protocol):
    """A frozen dual encoder in evaluation mode; its device and dtype are its own."""

    @property
    def logit_scale(self) -> float:
        """exp of the learned temperature: logits = logit_scale * cosine."""

    def with_vision(self, vision: nn.Module) -> "VisionLanguageModel":
        """The same text tower beside another image encoder; this model stays as it was."""

    def prompt_shape(self) -> PromptShape:
        """Widths and depths of both towers."""

    def encode_text(
        self, texts: Sequence[str], context: Context | None = None, deep: DeepContext | None = None
    ) -> Float[Tensor, "texts dim"]:
        """Text features, not normalised; `context` stands before the words of every text.

        `deep[i]` takes its place at the input of layer i + 1 (layers counted from 0). Raises PromptError, with the
        index of the text, where one does not fit.
        """

    def embed_words(self, text: str) -> Context:
        """Token embeddings of a text without its markers: where a learned context may start."""


@dataclass(frozen=True, init=False)
class Classifier:
    """The function that is attacked and certified: images to features to logits.

    `encode` is an `Encoder`, or any function from images to features, which becomes a `FunctionEncoder`. Classifiers
    with equal `encode` share one pass over the noise. `scope` says what their certificates hold for.
    """

    encode: Encoder
    head: Callable[[Features], Logits]
    scope: Scope = "model"

    def __init__(
        self,
        encode: Encoder | Callable[[Images], Features],
        head: Callable[[Features], Logits],
        scope: Scope = "model",
    ) -> None:
        for name, value in (("encode", as_encoder(encode)), ("head", head), ("scope", scope)):
            object.__setattr__(self, name, value)

    def __call__(self, images: Images, /) -> Logits:
        return self.head(self.encode(images))

    def tuned(self, head: Callable[[Features], Logits]) -> "Classifier":
        """The same encoder under a head that depends on the image that is answered."""
        return replace(self, head=head, scope="tuned on input")


@runtime_checkable
class DirectionHead(Protocol):
    """A head whose answer is the class with the largest inner product of feature and direction, e.g. a cosine.

    Many such heads are one matrix product, and the length of a feature does not matter.
    """

    @property
    def directions(self) -> Float[Tensor, "classes dim"]:
        """One a class, all of equal length."""
