"""An encoder as a value: what is equal, what it is made of, and the same one with other weights."""

from dataclasses import replace

import pytest
import torch
from toys import flatten, one_pixel

from medrobust.errors import ModelError
from medrobust.models.clip import Clip
from medrobust.smoothing.sampling import PixelNoise, Sampler, encoders
from medrobust.types import Classifier, Encoder, FunctionEncoder, Images, ModuleEncoder, as_encoder
from medrobust.types.vit import NotAViT

WEIGHTS = torch.randn(5, 48, generator=torch.Generator().manual_seed(0))
IMAGES = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def small() -> ModuleEncoder:
    """Features = WEIGHTS @ pixels."""
    layer = torch.nn.Linear(48, 5, bias=False)
    with torch.no_grad():
        layer.weight.copy_(WEIGHTS)
    return ModuleEncoder(torch.nn.Sequential(torch.nn.Flatten(), layer))


def test_a_function_is_an_encoder_equal_to_itself_alone() -> None:
    def other(images: Images) -> torch.Tensor:
        return flatten(images)

    encode = Classifier(flatten, one_pixel(0.5).head).encode
    assert isinstance(encode, FunctionEncoder)
    assert isinstance(encode, Encoder)
    assert encode == as_encoder(flatten)
    assert hash(encode) == hash(as_encoder(flatten))
    assert encode != as_encoder(other)
    assert torch.equal(encode(IMAGES), IMAGES.flatten(1))
    assert encode.like is None


def test_a_function_has_no_parts_and_no_weights() -> None:
    encode = as_encoder(flatten)
    with pytest.raises(NotAViT, match="the encoder is no vision transformer that tells its parts"):
        encode.parts()
    for ask in (encode.tower, lambda: encode.adapted({})):
        with pytest.raises(ModelError, match="the encoder is a function, whose weights cannot be changed; take the"):
            ask()


def test_a_torch_module_is_an_encoder_with_weights_and_without_parts() -> None:
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
    encode = Classifier(module, lambda features: features).encode
    assert isinstance(encode, ModuleEncoder)
    assert encode == as_encoder(module)
    assert encode.tower() is module
    assert torch.equal(encode(IMAGES), module(IMAGES))
    with pytest.raises(NotAViT, match="the encoder is a Sequential, whose parts are not known"):
        encode.parts()


def test_an_adapted_encoder_computes_with_its_own_weights_and_leaves_the_first_alone() -> None:
    encode = small()
    adapted = encode.adapted({"1.weight": 3 * WEIGHTS})
    torch.testing.assert_close(adapted(IMAGES), 3 * IMAGES.flatten(1) @ WEIGHTS.T)
    torch.testing.assert_close(encode(IMAGES), IMAGES.flatten(1) @ WEIGHTS.T)
    assert adapted != encode
    assert adapted.like == encode
    assert adapted.adapted({"1.weight": WEIGHTS}).like == encode
    assert encode.adapted({"1.weight": 3 * WEIGHTS}) != adapted  # a copy for one image, which nobody shares
    assert not any(weight.requires_grad for weight in adapted.tower().parameters())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"2.weight": WEIGHTS},
            r"got 2\.weight of shape \[5, 48\], it has no such weight; the names and shapes are those",
        ),
        ({"1.weight": WEIGHTS[:1]}, r"got 1\.weight of shape \[1, 48\], it has \[5, 48\]"),
    ],
)
def test_weights_that_do_not_fit_are_refused(changes: dict, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        small().adapted(changes)


def test_a_model_gives_the_same_encoder_as_long_as_its_tower_is_the_same(tiny: Clip) -> None:
    assert tiny.encode_image == tiny.encode_image
    assert replace(tiny, logit_scale=1.0).encode_image == tiny.encode_image
    scaled = torch.nn.Sequential(tiny.vision)
    assert tiny.with_vision(scaled).encode_image != tiny.encode_image
    assert tiny.encode_image != as_encoder(flatten)


def test_equal_encoders_share_a_pass(tiny: Clip) -> None:
    head = one_pixel(0.5).head
    adapted = tiny.encode_image.adapted({})
    groups = encoders([Classifier(encode, head) for encode in (tiny.encode_image, adapted, tiny.encode_image, flatten)])
    assert [users for _, users in groups] == [[0, 2], [1], [3]]


def test_an_adapted_encoder_is_encoded_as_the_one_it_was_made_from() -> None:
    made: list[Encoder] = []

    def make(encode: Encoder, image: torch.Tensor) -> PixelNoise:
        made.append(encode)
        return PixelNoise(encode, tuple(image.shape), "checked")

    encode, sampler = small(), Sampler(4, make)
    adapted = encode.adapted({"1.weight": 2 * WEIGHTS})
    noisy = sampler.encoder(adapted, IMAGES[0])
    assert made == [encode]
    torch.testing.assert_close(noisy.at(IMAGES[0], 0.0)(torch.zeros(1, 3, 4, 4)), 2 * IMAGES[:1].flatten(1) @ WEIGHTS.T)
