"""CLIP checkpoints of old and new form against transformers' own forward pass."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medrobust.errors import ModelError, PromptError
from medrobust.models import load
from medrobust.models.clip import Clip, read_preprocess
from medrobust.models.towers import TokenTower
from medrobust.types.vit import NotAViT

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
TEXTS = ["a photo of red paint.", "blue", "an image that shows green paint, and a lot of it."]
# eos_token_id 2: configs of the first CLIPs, whose tower pools at the largest id; position_ids: their saved buffers
FORMS = ["legacy", "legacy pickle", "new"]
Reference = tuple[Clip, Any, Any]


@pytest.fixture(scope="module", params=FORMS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Reference:
    """A loaded model beside transformers' network and tokenizer for the same random weights."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    legacy = request.param != "new"
    tokenizer = CLIPTokenizer.from_pretrained(checkpoint)
    shared = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "quick_gelu"}
    text = shared | {"vocab_size": len(tokenizer), "hidden_size": 32, "max_position_embeddings": 77}
    text |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2 if legacy else tokenizer.eos_token_id}
    vision = shared | {"hidden_size": 48, "image_size": 16, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()
        for parameter in network.parameters():  # far from the identity, so that an error shows
            if parameter.ndim > 1:
                parameter.data.mul_(3)
    folder = tmp_path_factory.mktemp("clip")
    write(folder, network, tokenizer, legacy=legacy, pickle=request.param == "legacy pickle")
    return load(str(folder)), network, tokenizer


def write(folder: Path, network: Any, tokenizer: Any, *, legacy: bool, pickle: bool) -> None:
    from safetensors.torch import save_file

    weights = {key: value.contiguous() for key, value in network.state_dict().items()}
    if legacy:
        weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        weights["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    if pickle:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    network.config.save_pretrained(folder)
    size: Any = 16 if legacy else {"shortest_edge": 16}
    crop: Any = 16 if legacy else {"height": 16, "width": 16}
    said = {"size": size, "crop_size": crop, "resample": 3, "do_center_crop": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(said | {"image_mean": MEAN, "image_std": STD}))
    if legacy:
        parts = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        (folder / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in parts["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")
    else:
        tokenizer.save_pretrained(folder)


@torch.no_grad()
def their_text(network: Any, tokenizer: Any, texts: list[str]) -> Tensor:
    rows = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt")
    assert rows["input_ids"].shape[1] == 77
    return network.get_text_features(input_ids=rows["input_ids"]).pooler_output


def test_image_features_are_those_of_transformers(both: Reference) -> None:
    model, network, _ = both
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pixels = torch.stack([(images[:, c] - MEAN[c]) / STD[c] for c in range(3)], dim=1)
    with torch.no_grad():
        expected = network.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(model.encode_image(images), expected, atol=1e-5, rtol=0)


def test_text_features_are_those_of_transformers_however_texts_are_cropped(both: Reference) -> None:
    model, network, tokenizer = both
    expected = their_text(network, tokenizer, TEXTS)
    torch.testing.assert_close(model.encode_text(TEXTS), expected, atol=1e-5, rtol=0)
    for number, text in enumerate(TEXTS):
        torch.testing.assert_close(model.encode_text([text])[0], expected[number], atol=1e-5, rtol=0)
    longest = "red " * 75
    torch.testing.assert_close(
        model.encode_text([*TEXTS, longest])[:3], expected, atol=1e-5, rtol=0, msg="uncropped to 77 tokens"
    )


def test_the_temperature_is_the_checkpoints(both: Reference) -> None:
    model, network, _ = both
    assert model.logit_scale == pytest.approx(network.logit_scale.exp().item())


def test_learned_context_is_as_if_the_vocabulary_had_those_words(both: Reference) -> None:
    model, network, _ = both
    context = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    rows = [model.tokenize(text) for text in TEXTS]
    longest = max(map(len, rows))
    assert not {0, 1, 3} & {token for row in rows for token in row}
    richer = copy.deepcopy(network)
    with torch.no_grad():
        richer.text_model.get_input_embeddings().weight[[0, 1, 3]] = context
        ids = [[row[0], 0, 1, 3, *row[1:], *([row[-1]] * (longest - len(row)))] for row in rows]
        expected = richer.get_text_features(input_ids=torch.tensor(ids)).pooler_output
    found = model.encode_text(TEXTS, context)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert not torch.allclose(found, model.encode_text(TEXTS), atol=1e-2)


def test_the_words_of_a_text_as_context_are_that_text(both: Reference) -> None:
    model, _, _ = both
    context = model.embed_words("a photo of")
    assert context.shape == (len(model.tokenize("a photo of")) - 2, 32)
    torch.testing.assert_close(
        model.encode_text(["red paint."], context), model.encode_text(["a photo of red paint."]), atol=1e-6, rtol=0
    )
    assert model.embed_words("").shape == (0, 32)


def test_the_gradient_reaches_context_and_pixels_and_no_weight(both: Reference) -> None:
    model, _, _ = both
    context = model.embed_words("a photo of").requires_grad_(True)
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    (model.encode_text(TEXTS, context).sum() + model.encode_image(images).sum()).backward()
    for reached in (context.grad, images.grad):
        assert reached is not None
        assert (reached.flatten(1).abs().sum(dim=1) > 0).all()
    assert not any(p.requires_grad for part in (model.vision, model.text) for p in part.parameters())
    assert not model.vision.training
    assert not model.text.training


def test_a_failure_under_context_leaves_no_context_behind(both: Reference) -> None:
    model, _, _ = both
    before = model.encode_text(TEXTS)
    with pytest.raises(RuntimeError):
        model.encode_text(TEXTS, torch.ones(3, 31))
    assert torch.equal(model.encode_text(TEXTS), before)


def test_a_prompt_that_does_not_fit_is_named(tiny: Clip) -> None:
    long = "red " * 76
    with pytest.raises(PromptError, match=rf"^'{long}': the prompt has 7[89] tokens .* holds 77") as caught:
        tiny.encode_text(["red", long])
    assert caught.value.index == 1
    fits = "red " * 70
    tiny.encode_text([fits])
    with pytest.raises(PromptError, match="6 of them learned context"):
        tiny.encode_text([fits], torch.zeros(6, 32))


def test_images_of_another_size_are_refused(tiny: Clip) -> None:
    with pytest.raises(ModelError, match=r"takes 16 x 16 pixels, got 16 x 24"):
        tiny.encode_image(torch.zeros(1, 3, 16, 24))


def test_another_vision_tower_leaves_the_model_as_it_was(tiny: Clip) -> None:
    tower = copy.deepcopy(tiny.vision).requires_grad_(True).train()
    with torch.no_grad():
        tower.projection.weight.mul_(2)
    images = torch.rand(2, 3, 16, 16)
    before = tiny.encode_image(images)
    other = tiny.with_vision(tower)
    torch.testing.assert_close(other.encode_image(images), 2 * before)
    assert torch.equal(tiny.encode_image(images), before)
    assert torch.equal(other.encode_text(TEXTS), tiny.encode_text(TEXTS))
    assert not other.vision.training
    assert not any(p.requires_grad for p in other.vision.parameters())


def changed(key: str, value: Any) -> Callable[[dict], dict]:
    return lambda said: {k: v for k, v in (said | {key: value}).items() if v is not None}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (changed("image_mean", None), r"is not a CLIP preprocessing: KeyError 'image_mean'"),
        (changed("image_std", [0.2, 0.0, 0.2]), r"three numbers each, std positive"),
        (changed("image_mean", [0.5]), r"three numbers each"),
        (changed("resample", 77), r"is not a CLIP preprocessing: KeyError 77"),
        (changed("size", "large"), r"is not a CLIP preprocessing: ValueError"),
        (lambda said: [said], r"is not a CLIP preprocessing"),
    ],
)
def test_a_wrong_preprocessing_is_refused(tmp_path: Path, checkpoint: Path, change: Callable, sentence: str) -> None:
    said = json.loads((checkpoint / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(change(said)))
    with pytest.raises(ModelError, match=sentence):
        read_preprocess(tmp_path)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"size": 20, "crop_size": 16, "resample": 2}, (16, 20, "bilinear", True)),
        ({"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}}, (16, 20, "bicubic", True)),
        ({"size": {"height": 16, "width": 16}, "do_center_crop": False, "resample": 1}, (16, 16, "lanczos", False)),
    ],
)
def test_preprocessing_is_what_the_checkpoint_says(tmp_path: Path, said: dict, expected: tuple) -> None:
    written = json.dumps(said | {"image_mean": MEAN, "image_std": STD})
    (tmp_path / "preprocessor_config.json").write_text(written)
    found, mean, std = read_preprocess(tmp_path)
    assert (found.size, found.resize, found.interpolation, found.crop) == expected
    assert (mean, std) == (MEAN, STD)


class _Doubled(TokenTower):
    def forward(self, images: Tensor) -> Tensor:
        return 2 * super().forward(images)


def hooked(tower: Any) -> None:
    tower.tower.encoder.layers[1].mlp.register_forward_hook(lambda *_: None)


def patched(tower: Any) -> None:
    tower.tower.encoder.forward = tower.tower.encoder.forward


def other_activation(tower: Any) -> None:
    for layer in tower.tower.encoder.layers:
        layer.mlp.activation_fn = torch.nn.ReLU()


def two_activations(tower: Any) -> None:
    from transformers.activations import QuickGELUActivation

    tower.tower.encoder.layers[0].mlp.activation_fn = QuickGELUActivation()


def whole_numbers(tower: Any) -> None:
    fc1 = tower.tower.encoder.layers[0].mlp.fc1
    fc1.weight = torch.nn.Parameter(torch.zeros_like(fc1.weight, dtype=torch.int8), requires_grad=False)


def other_layer(tower: Any) -> None:
    tower.projection = torch.nn.Sequential(tower.projection)


def parametrised(tower: Any) -> None:
    torch.nn.utils.parametrizations.weight_norm(tower.tower.encoder.layers[0].mlp.fc1)


def overlapping(tower: Any) -> None:
    tower.tower.embeddings.patch_embedding.stride = (4, 4)


def dropping(tower: Any) -> None:
    tower.tower.encoder.layers[0].self_attn.dropout = 0.1
    tower.train()


def other_tower(tower: Any) -> None:
    tower.tower = torch.nn.Identity()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (hooked, r"^tower.encoder.layers.1.mlp has a hook"),
        (patched, r"^tower.encoder has a hook"),
        (other_activation, r"activation_fn of the vision tower is a ReLU"),
        (two_activations, r"have 2 activations"),
        (whole_numbers, r"fc1.weight of the vision tower is no plain floating-point tensor"),
        (other_layer, r"^projection of the vision tower is a Sequential"),
        (parametrised, r"fc1 of the vision tower is a ParametrizedLinear"),
        (overlapping, r"patches of the vision tower overlap"),
        (dropping, r"is in training mode with dropout"),
        (other_tower, r"holds a Identity, not a CLIP vision transformer"),
    ],
)
def test_a_tower_that_may_do_something_else_has_no_parts(tiny: Clip, change: Callable, reason: str) -> None:
    tower = copy.deepcopy(tiny.vision)
    change(tower)
    with pytest.raises(NotAViT, match=reason):
        replace(tiny, vision=tower).encode_image.parts()


def test_only_the_tower_as_loaded_has_parts(tiny: Clip) -> None:
    with pytest.raises(NotAViT, match=r"the image encoder is a Flatten, not a CLIP tower"):
        tiny.with_vision(torch.nn.Flatten()).encode_image.parts()
    inner: Any = tiny.vision
    subclass = _Doubled(inner.tower, inner.projection, MEAN, STD, pooled="own")
    with pytest.raises(NotAViT, match=r"the image encoder is a _Doubled"):
        replace(tiny, vision=subclass).encode_image.parts()


def test_the_parts_are_the_towers_own(both: Reference) -> None:
    model, network, _ = both
    vit, theirs = model.encode_image.parts(), network.vision_model
    assert (vit.heads, vit.activation, vit.size, len(vit.blocks)) == (2, "quick_gelu", 16, 2)
    assert torch.equal(vit.blocks[1].value.weight, theirs.encoder.layers[1].self_attn.v_proj.weight)
    assert torch.equal(vit.blocks[0].norm2.bias, theirs.encoder.layers[0].layer_norm2.bias)
    assert vit.pre_norm is not None
    assert torch.equal(vit.pre_norm.weight, theirs.pre_layrnorm.weight)
    assert vit.mean.tolist() == pytest.approx(MEAN)
    assert vit.std.tolist() == pytest.approx(STD)
    assert vit.patch.data_ptr() == model.vision.tower.embeddings.patch_embedding.weight.data_ptr()
