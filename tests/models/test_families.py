"""Every family beside its towers written again in plain torch, over random weights by the original names."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from checkpoints import WRITERS, Weights, open_clip_config, write_biomedclip
from references import bert, clip_image, clip_text, quick_gelu, swin, timm_vit
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from medrobust.models import MODELS, load
from medrobust.models.clip import Clip
from medrobust.models.inputs import CLIP_MEAN, CLIP_STD

TEXTS = ["a photo of red paint.", "blue", "an image that shows green paint, and a lot of it."]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


class Family(NamedTuple):
    """A loaded model and the weights that were written."""

    model: Clip
    weights: Weights


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Callable[[str], Family]:
    """A family by its name, written and loaded once."""
    kept: dict[str, Family] = {}

    def read(name: str) -> Family:
        if name not in kept:
            folder = tmp_path_factory.mktemp(name)
            write, spec = WRITERS[name]
            kept[name] = Family(weights=write(folder, checkpoint), model=load(spec.format(folder)))
        return kept[name]

    return read


Read = Callable[[str], Family]


def pictures(model: Clip) -> Tensor:
    size = model.preprocess.size
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))


def normalised(images: Tensor, mean: list[float], std: list[float]) -> Tensor:
    return torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)


def rows_of(model: Clip, fill: int, length: int | None = None) -> Tensor:
    tokens = [model.tokenize(text) for text in TEXTS]
    longest = length or max(map(len, tokens))
    return torch.tensor([[*ids, *[fill] * (longest - len(ids))] for ids in tokens])


@pytest.mark.parametrize(
    ("name", "act", "mean", "std"),
    [
        ("quiltnet", F.gelu, CLIP_MEAN, CLIP_STD),
        ("chexzero", quick_gelu, [101.48761 / 255] * 3, [83.43944 / 255] * 3),
    ],
)
def test_clips_of_open_clip_and_openai(family: Read, name: str, act: Callable, mean: list, std: list) -> None:
    model, weights = family(name)
    images = pictures(model)
    expected = clip_image(weights, normalised(images, mean, std), act)
    torch.testing.assert_close(model.encode_image(images), expected, **CLOSE)
    torch.testing.assert_close(model.encode_text(TEXTS), clip_text(weights, rows_of(model, 0, 77), act), **CLOSE)
    assert model.logit_scale == pytest.approx(weights["logit_scale"].exp().item())
    assert model.context_length == 77


def test_biomedclip(family: Read) -> None:
    model, weights = family("biomedclip")
    images = pictures(model)
    pooled = timm_vit(weights, normalised(images, CLIP_MEAN, CLIP_STD))
    torch.testing.assert_close(model.encode_image(images), pooled @ weights["visual.head.proj.weight"].T, **CLOSE)
    first = bert(weights, rows_of(model, 0, 256), "text.transformer")[-1][:, 0]
    expected = F.gelu(first @ weights["text.proj.0.weight"].T) @ weights["text.proj.2.weight"].T
    torch.testing.assert_close(model.encode_text(TEXTS), expected, **CLOSE)
    assert model.context_length == 256


def test_biomedclip_by_its_old_and_new_keys(family: Read, tmp_path: Path) -> None:
    write_biomedclip(tmp_path, new=False)
    assert torch.equal(load(str(tmp_path)).encode_text(TEXTS), family("biomedclip").model.encode_text(TEXTS))


def test_medclip(family: Read) -> None:
    model, weights = family("medclip")
    images = pictures(model)
    pooled = swin(weights, normalised(images, [0.5862785803043838] * 3, [0.27950088968644304] * 3))
    expected = pooled @ weights["vision_model.projection_head.weight"].T
    torch.testing.assert_close(model.encode_image(images), expected, **CLOSE)
    for text, found in zip(TEXTS, model.encode_text(TEXTS), strict=True):  # each as if it were alone
        every = bert(weights, torch.tensor([model.tokenize(text)]), "text_model.model")
        mean = torch.stack([every[1], every[2], every[-1]]).mean(dim=(0, 2))
        torch.testing.assert_close(found, (mean @ weights["text_model.projection_head.weight"].T)[0], **CLOSE)


def test_siglip(family: Read, tmp_path: Path) -> None:
    from transformers import SiglipConfig, SiglipModel

    model, weights = family("siglip")
    network = SiglipModel(SiglipConfig.from_pretrained(model.name)).eval()
    network.load_state_dict(weights)
    images = pictures(model)
    with torch.no_grad():
        seen = network.get_image_features(pixel_values=2 * images - 1).pooler_output
        read = network.get_text_features(input_ids=rows_of(model, 1, 64)).pooler_output
        logits = network(input_ids=rows_of(model, 1, 64), pixel_values=2 * images - 1).logits_per_image
    torch.testing.assert_close(model.encode_image(images), seen, **CLOSE)
    torch.testing.assert_close(model.encode_text(TEXTS), read, **CLOSE)
    ours = F.normalize(model.encode_image(images), dim=-1) @ F.normalize(model.encode_text(TEXTS), dim=-1).T
    torch.testing.assert_close((model.logit_scale * ours).softmax(dim=1), logits.softmax(dim=1), **CLOSE)


def test_learned_context_in_bert_comes_before_positions_are_added(family: Read) -> None:
    model, weights = family("biomedclip")
    context = torch.randn(2, 128, generator=torch.Generator().manual_seed(2))
    richer = dict(weights)
    table = richer["text.transformer.embeddings.word_embeddings.weight"].clone()
    table[[1, 4]] = context  # of words that no text has
    richer["text.transformer.embeddings.word_embeddings.weight"] = table
    rows = rows_of(model, 0)
    rows = torch.cat([rows[:, :1], torch.tensor([[1, 4]]).expand(3, 2), rows[:, 1:]], dim=1)
    first = bert(richer, rows, "text.transformer")[-1][:, 0]
    expected = F.gelu(first @ weights["text.proj.0.weight"].T) @ weights["text.proj.2.weight"].T
    torch.testing.assert_close(model.encode_text(TEXTS, context), expected, **CLOSE)


@pytest.mark.parametrize("name", WRITERS)
def test_the_words_of_a_text_as_context_are_that_text(family: Read, name: str) -> None:
    model = family(name).model
    context = model.embed_words("a photo of")
    assert len(context) == 3
    found = model.encode_text(["red paint and a lot", "it"], context)
    expected = model.encode_text(["a photo of red paint and a lot", "a photo of it"])
    torch.testing.assert_close(found, expected, **CLOSE)
    assert not torch.allclose(found[0], found[1], atol=1e-2)


@pytest.mark.parametrize("name", ["biomedclip", "medclip", "siglip"])
def test_deep_prompts_with_the_numbers_of_the_layer_change_nothing(family: Read, name: str) -> None:
    model = family(name).model
    context = model.embed_words("a photo of")
    start = model.reading.start
    seen: list[Tensor] = []
    encoder = model.text.encoder
    layer = (encoder.layer if name != "siglip" else encoder.layers)[1]
    handle = layer.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0].clone()))
    expected = model.encode_text(["red paint"], context)
    handle.remove()
    deep = seen[0][0, None, start : start + 3]
    torch.testing.assert_close(model.encode_text(["red paint"], context, deep), expected, **CLOSE)
    assert not torch.allclose(model.encode_text(["red paint"], context, -deep), expected, atol=1e-3)


def test_texts_of_siglip_lose_case_and_punctuation(family: Read) -> None:
    model = family("siglip").model
    assert model.tokenize("A Photo, of: red  paint!") == model.tokenize("a photo of red paint")
    assert model.tokenize("red") != model.tokenize("blue")


@pytest.mark.parametrize(
    ("said", "registered", "act"),
    [
        ({}, None, F.gelu),
        ({"quick_gelu": True}, None, quick_gelu),
        ({"quick_gelu": True}, "quiltnet-b-32", quick_gelu),  # what the files say goes before the registry
        ({"quick_gelu": False}, "tuned", F.gelu),
        ({}, "tuned", quick_gelu),
    ],
)
def test_the_activation_is_the_files_then_the_registrys(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, said: dict, registered: str | None, act: Callable
) -> None:
    write, _ = WRITERS["quiltnet"]
    weights = write(tmp_path, checkpoint)
    config = open_clip_config(len(weights["token_embedding.weight"]), **said)
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    quick = replace(MODELS["quiltnet-b-32"], name="tuned", activation="quick_gelu")
    monkeypatch.setitem(MODELS, "tuned", quick)
    model = load(f"{registered}={tmp_path}" if registered else str(tmp_path))
    images = pictures(model)
    expected = clip_image(weights, normalised(images, CLIP_MEAN, CLIP_STD), act)
    torch.testing.assert_close(model.encode_image(images), expected, **CLOSE)


def test_open_clip_may_keep_its_text_tower_apart(family: Read, tmp_path: Path, checkpoint: Path) -> None:
    write, _ = WRITERS["quiltnet"]
    weights = write(tmp_path, checkpoint)
    apart = {key if key.startswith(("visual.", "logit")) else f"text.{key}": value for key, value in weights.items()}
    save_file(apart, tmp_path / "open_clip_model.safetensors")
    assert torch.equal(load(str(tmp_path)).encode_text(TEXTS), family("quiltnet").model.encode_text(TEXTS))
