"""The lean path against the tower of transformers: the same features, the same law, nothing else touched."""

import copy
import platform
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from medrobust.defences.adaptation import merged, starting_state
from medrobust.errors import SmoothingError
from medrobust.models.clip import Clip, clip_tower
from medrobust.seeds import stream
from medrobust.smoothing import blocks, fast_vit
from medrobust.smoothing.fast_vit import compiler_missing, compiling_pays, difference, lean_encoder, unfold
from medrobust.types import Encoder, Preprocess

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
CPU = torch.device("cpu")
ENGINES = pytest.mark.parametrize("packs", [True, False], ids=["oneDNN", "torch"])


def random_clip(
    base: Clip, *, size: int = 16, side: int = 8, width: int = 32, activation: str = "gelu", seed: int = 0
) -> Clip:
    """A CLIP whose every vision parameter is random, biases and norms too, so that an error shows."""
    from transformers import CLIPVisionConfig
    from transformers.models.clip.modeling_clip import CLIPVisionModel

    config = CLIPVisionConfig(hidden_size=width, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
                              image_size=size, patch_size=side, hidden_act=activation)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower, projection = CLIPVisionModel(config), nn.Linear(width, 16, bias=False)
        for parameter in [*tower.parameters(), *projection.parameters()]:
            parameter.data.add_(0.2 * torch.randn(parameter.shape))
    preprocess = Preprocess(size=size, resize=size)
    made = Clip("random", "0", "none", preprocess, 1.0, 77, nn.Identity(), None, nn.Identity(), base.tokenize)
    return made.with_vision(clip_tower(tower, projection, MEAN, STD))


def picture(size: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(3, size, size, generator=stream(seed, "picture"))


def apart(clip: Clip, image: Tensor | None = None, *, sigma: float = 0.5, **how: Any) -> float:
    image = picture(clip.preprocess.size) if image is None else image
    return difference(
        lean_encoder(clip.encode_image.parts(), **how), clip.encode_image, image, sigma, stream(1, "pixels")
    )


@ENGINES
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("latent", [False, True])
@pytest.mark.parametrize("size", [16, 21])
def test_features_are_those_of_the_tower(
    tiny: Clip, monkeypatch: pytest.MonkeyPatch, packs: bool, activation: str, latent: bool, size: int
) -> None:
    if not packs:
        monkeypatch.setattr(fast_vit, "packing_works", lambda *_: False)
    clip = random_clip(tiny, size=size, activation=activation)
    lean = lean_encoder(clip.encode_image.parts(), latent=latent)
    assert lean.latent == latent
    assert lean.shape == (4, 32 if latent else 192)
    assert apart(clip, latent=latent) < 1e-5


def test_a_picture_the_grid_does_not_fill_is_cut_from_the_top_left(tiny: Clip) -> None:
    clip = random_clip(tiny, size=21)
    lean, image = lean_encoder(clip.encode_image.parts()), picture(21)
    draws = torch.randn(2, *lean.shape, generator=stream(0, "draws"))
    beyond = image.clone()
    beyond[:, 16:], beyond[:, :, 16:] = 0, 0
    assert torch.equal(lean.at(image, 0.5)(draws), lean.at(beyond, 0.5)(draws))
    assert not torch.equal(lean.at(image, 0.5)(draws), lean.at(image.flip(1), 0.5)(draws))


def test_unfolding_is_the_convolutions_own() -> None:
    images = torch.rand(2, 3, 17, 13, generator=stream(0, "images"))
    expected = torch.nn.functional.unfold(images[:, :, :16, :12], 4, stride=4).mT
    assert torch.equal(unfold(images, 4), expected)


def test_without_pre_norm_and_with_a_bias_of_the_patches(tiny: Clip) -> None:
    clip = random_clip(tiny)
    tower: Any = copy.deepcopy(clip.vision)
    tower.tower.pre_layrnorm = nn.Identity()
    bias = torch.randn(32, generator=stream(0, "bias"))
    tower.tower.embeddings.patch_embedding.bias = nn.Parameter(bias)
    vit = replace(clip.encode_image.parts(), pre_norm=None, patch_bias=bias)
    for latent in (False, True):
        lean = lean_encoder(vit, latent=latent)
        assert difference(lean, clip.with_vision(tower).encode_image, picture(), 0.5, stream(1, "pixels")) < 1e-5


def test_a_merged_tower_is_run_as_merged(tiny: Clip) -> None:
    clip, generator = random_clip(tiny), stream(0, "lora")
    state = starting_state(clip.vision, "lora", rank=2, generator=generator)
    adapted = merged(clip, {k: v + 0.1 * torch.randn(v.shape, generator=generator) for k, v in state.items()})
    assert isinstance(adapted, Clip)
    assert apart(adapted) < 1e-5
    assert (
        difference(lean_encoder(clip.encode_image.parts()), adapted.encode_image, picture(), 0.5, stream(1, "pixels"))
        > 1e-2
    )


def test_image_and_sigma_are_those_of_the_call(tiny: Clip) -> None:
    clip = random_clip(tiny)
    lean = lean_encoder(clip.encode_image.parts())
    draws = torch.randn(3, *lean.shape, generator=stream(0, "draws"))
    one = lean.at(picture(seed=0), 0.25)
    kept = one(draws)
    other = lean.at(picture(seed=1), 1.0)(draws)
    assert torch.equal(one(draws), kept)
    assert not torch.allclose(kept, other, atol=1e-2)
    clean = clip.encode_image(picture(seed=1)[None])
    torch.testing.assert_close(lean.at(picture(seed=1), 0.0)(draws[:1]), clean, atol=1e-5, rtol=1e-5)
    for sigma in (0.12, 2.0):
        assert apart(clip, picture(seed=1), sigma=sigma) < 1e-5


def test_noise_behind_the_first_layer_has_the_covariance_of_noise_on_the_pixels(tiny: Clip) -> None:
    clip = random_clip(tiny)
    lean, convolution = lean_encoder(clip.encode_image.parts()), clip.vision.tower.embeddings.patch_embedding
    basis = torch.eye(192).view(192, 3, 8, 8) / clip.vision.std
    images = convolution(basis).flatten(1).detach().double()  # of every pixel's unit vector
    law = lean._map.double()
    torch.testing.assert_close(law.T @ law, images.T @ images, atol=1e-5, rtol=1e-5)


def test_features_have_the_same_mean_and_covariance_whichever_noise_is_drawn(tiny: Clip) -> None:
    clip, count, image = random_clip(tiny), 20_000, picture()
    lean = lean_encoder(clip.encode_image.parts())
    generator = stream(5, "draws")
    latent = lean.at(image, 0.5)(torch.randn(count, *lean.shape, generator=generator)).double()
    pixels = [torch.randn(1000, 3, 16, 16, generator=generator) for _ in range(count // 1000)]
    full = torch.cat([clip.encode_image(image + 0.5 * noise) for noise in pixels]).double()
    spread = full.std(dim=0)
    assert ((latent.mean(dim=0) - full.mean(dim=0)).abs() < 4.5 * spread * (2 / count) ** 0.5).all()
    wanted = full.T.cov()
    assert (latent.T.cov() - wanted).norm() < 0.05 * wanted.norm()


def test_patches_with_fewer_pixels_than_a_token_keep_their_layout(tiny: Clip) -> None:
    clip = random_clip(tiny, size=8, side=2)
    for latent in (None, True, False):
        lean = lean_encoder(clip.encode_image.parts(), latent=latent)
        assert (lean.latent, lean.shape) == (False, (16, 12))
        assert "patch noise" in lean.kernel
        assert apart(clip, latent=latent) < 1e-5


def test_noise_is_drawn_behind_the_first_layer_only_where_that_is_fewer_numbers(tiny: Clip) -> None:
    vit = random_clip(tiny, size=8, side=4, width=48).encode_image.parts()
    assert [lean_encoder(vit, latent=latent).latent for latent in (None, True, False)] == [False, True, False]


def test_tokens_without_a_density_take_the_patch_layout(tiny: Clip) -> None:
    clip = random_clip(tiny)
    clip.vision.tower.embeddings.patch_embedding.weight.data[5] = 0
    lean = lean_encoder(clip.encode_image.parts(), latent=True)
    assert (lean.latent, lean.shape) == (False, (4, 192))
    assert apart(clip) < 1e-5


def test_the_last_block_computes_the_class_token_alone(tiny: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    linear = blocks._linear

    def recorded(inputs: Tensor, *how: Any, **more: Any) -> Tensor:
        rows.append(len(inputs))
        return linear(inputs, *how, **more)

    lean = lean_encoder(random_clip(tiny).encode_image.parts())
    monkeypatch.setattr(blocks, "_linear", recorded)
    lean.at(picture(), 0.5)(torch.zeros(6, *lean.shape))
    assert rows == [6 * 5] * 4 * 2 + [6] * 5  # 5 tokens; qkv, out, fc1, fc2; then query for qkv, and the projection


@pytest.mark.parametrize("where", ["projection.weight", "tower.embeddings.patch_embedding.weight",
                                   "tower.encoder.layers.0.mlp.fc1.bias"])  # fmt: skip
def test_a_weight_that_is_nan_gives_nan(tiny: Clip, where: str) -> None:
    clip = random_clip(tiny)
    dict(clip.vision.named_parameters())[where].data.flatten()[0] = float("nan")
    lean = lean_encoder(clip.encode_image.parts())
    assert lean.at(picture(), 0.5)(torch.zeros(2, *lean.shape)).isnan().any(dim=1).all()
    assert not apart(clip) < 1e-4


@pytest.mark.parametrize(("dtype", "close"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_half_precision_is_close_and_named(tiny: Clip, dtype: torch.dtype, close: float) -> None:
    lean = lean_encoder(random_clip(tiny).encode_image.parts(), dtype=dtype)
    assert str(dtype).removeprefix("torch.") in lean.kernel
    assert lean.at(picture(), 0.5)(torch.zeros(1, *lean.shape)).dtype == torch.float32
    assert 1e-5 < apart(random_clip(tiny), dtype=dtype) < close


def test_a_difference_is_seen(tiny: Clip) -> None:
    clip = random_clip(tiny)
    lean, image = lean_encoder(clip.encode_image.parts()), picture()
    off: Callable = lambda images: 1.001 * clip.encode_image(images)  # noqa: E731
    assert difference(lean, off, image, 0.5, stream(1, "pixels")) == pytest.approx(1e-3, rel=0.1)
    other_law = replace(lean, _map=1.001 * lean._map)
    assert difference(other_law, clip.encode_image, image, 0.5, stream(1, "pixels")) > 1e-3


def test_the_model_and_its_inputs_stay_as_they_are(tiny: Clip) -> None:
    clip = random_clip(tiny, activation="quick_gelu")
    before = copy.deepcopy(clip.vision.state_dict())
    image, draws = picture(), torch.randn(2, 4, 32, generator=stream(0, "draws"))
    kept = image.clone(), draws.clone()
    first = lean_encoder(clip.encode_image.parts()).at(image, 0.5)(draws)
    with torch.inference_mode():
        again = lean_encoder(clip.encode_image.parts()).at(image, 0.5)(draws)
    assert torch.equal(first, again)
    assert all(torch.equal(value, before[key]) for key, value in clip.vision.state_dict().items())
    assert torch.equal(image, kept[0])
    assert torch.equal(draws, kept[1])


def test_an_image_of_another_size_is_refused(tiny: Clip) -> None:
    with pytest.raises(SmoothingError, match=r"takes 3 x 16 x 16 pixels, the image has \(3, 16, 24\)"):
        lean_encoder(tiny.encode_image.parts()).at(torch.zeros(3, 16, 24), 0.5)


def test_a_loaded_model_has_its_vit_and_agrees(tiny: Clip) -> None:
    assert isinstance(tiny.encode_image, Encoder)
    assert apart(tiny) < 1e-5
    assert lean_encoder(tiny.encode_image.parts()).kernel.startswith("lean ViT, latent noise, ")


def test_packing_is_not_used_where_it_fails(tiny: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> None:
        raise NotImplementedError("no oneDNN")

    monkeypatch.setattr(blocks, "_packed", gone)
    assert not blocks.packing_works(CPU, torch.float32)
    assert compiling_pays(tiny.encode_image.parts())
    assert "torch float32" in lean_encoder(tiny.encode_image.parts()).kernel
    monkeypatch.setattr(blocks, "_packed", lambda weight, bias: blocks._plain(weight * 1.01, bias))
    assert not blocks.packing_works(CPU, torch.float32)


def test_layers_are_packed_where_that_works_and_nothing_is_compiled(tiny: Clip) -> None:
    vit = tiny.encode_image.parts()
    packs = blocks.packing_works(CPU, torch.float32)
    if torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64"):
        assert packs
    assert ("oneDNN" in lean_encoder(vit).kernel) == packs
    assert compiling_pays(vit) == (not packs)
    assert "oneDNN" not in lean_encoder(vit, compile=True).kernel
    assert not blocks.packing_works(CPU, torch.bfloat16)
    assert not blocks.packing_works(torch.device("cuda"), torch.float32)


def test_why_there_is_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("\nno C++ compiler\nlong story")

    monkeypatch.setattr(torch, "compile", fails)
    assert compiler_missing() == "torch.compile fails here: RuntimeError no C++ compiler"
    monkeypatch.setattr(torch, "compile", lambda *_, **__: lambda numbers: numbers * 3)
    assert compiler_missing() == "torch.compile gives wrong numbers here"


@pytest.fixture
def untyped() -> Iterator[None]:
    """Without the checks of shapes, which dynamo cannot trace."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.mark.slow
def test_compiled_is_equal_and_compiled_once(tiny: Clip, untyped: None) -> None:
    if missing := compiler_missing():
        pytest.skip(missing)
    clip = random_clip(tiny)
    lean = lean_encoder(clip.encode_image.parts(), compile=True)
    assert lean.kernel.endswith("inductor")
    assert difference(lean, clip.encode_image, picture(), 0.5, stream(1, "pixels")) < 1e-5
    with torch.compiler.set_stance("fail_on_recompile"):
        for seed, sigma in ((2, 0.25), (3, 1.0)):
            other = difference(lean, clip.encode_image, picture(seed=seed), sigma, stream(1, "pixels"))
            assert other < 1e-5
