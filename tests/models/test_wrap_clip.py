"""A dual encoder in memory, as open_clip and transformers hold them, as a vision-language model."""

import copy
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from stand_ins import OpenClip, tokenize
from torch import nn

import medrobust as mr
from medrobust.data.task import Dataset, Task
from medrobust.defences import make_defence
from medrobust.defences.heads import prompts
from medrobust.errors import ModelError, PromptError
from medrobust.models.wrap_clip import WrappedClip
from medrobust.seeds import stream
from medrobust.types import HasClasses, ImageModel, VisionLanguageModel

SIDE = 16
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def open_clip() -> OpenClip:
    return OpenClip().eval()


def wrapped(model: OpenClip | None = None, **more: Any) -> WrappedClip:
    model = model or open_clip()
    given = {"encode_image": model.encode_image, "encode_text": model.encode_text, "tokenizer": tokenize,
             "preprocess": SIDE, "logit_scale": model.logit_scale.exp()}  # fmt: skip
    return mr.wrap_clip(**(given | more))


def test_zero_shot_is_the_formula_of_clip(task: Task) -> None:
    """scale * cos(image, mean of the unit text features over the templates), from the model's own methods."""
    model, images = open_clip(), torch.rand(4, 3, SIDE, SIDE)
    found = wrapped(model, mean=MEAN, std=STD)
    with torch.no_grad():
        normal = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        each = [F.normalize(model.encode_text(tokenize(list(prompts(task, one)))), dim=-1) for one in task.templates]
        text = F.normalize(torch.stack(each).mean(dim=0), dim=-1)
        expected = model.logit_scale.exp() * F.normalize(model.encode_image(normal), dim=-1) @ text.T
    for name in ("zero-shot", "undefended"):
        assert torch.allclose(make_defence(name).apply(found, task, {})(images), expected, atol=1e-4)


def test_a_clip_of_transformers(task: Task, checkpoint: Any, tiny: Any) -> None:
    """Functions around transformers' own CLIP give what the loader makes of the same checkpoint."""
    from transformers import CLIPModel, CLIPTokenizer

    network = CLIPModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(checkpoint)
    found = mr.wrap_clip(
        lambda pixels: network.get_image_features(pixel_values=pixels), network.get_text_features,
        lambda texts: tokenizer(texts, padding=True, return_tensors="pt"), module=network,
        preprocess=tiny.preprocess, logit_scale=network.logit_scale.exp(),
        mean=tiny.vision.mean.flatten().tolist(), std=tiny.vision.std.flatten().tolist(),
    )  # fmt: skip
    images = torch.rand(3, 3, SIDE, SIDE)
    ours, theirs = (make_defence("zero-shot").apply(model, task, {})(images) for model in (found, tiny))
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_texts_without_a_tokenizer() -> None:
    model = open_clip()
    found = wrapped(model, tokenizer=None, encode_text=lambda texts: model.encode_text(tokenize(texts)), module=model)
    assert torch.equal(found.encode_text(["a", "b c"]), model.encode_text(tokenize(["a", "b c"])))


def test_what_it_is() -> None:
    model = open_clip()
    found = wrapped(model)
    assert isinstance(found, ImageModel)
    assert isinstance(found, VisionLanguageModel)
    assert not isinstance(found, HasClasses)
    assert (found.name, found.licence, found.revision, found.device.type) == ("OpenClip", None, None, "cpu")
    assert found.logit_scale == pytest.approx(float(torch.tensor(3.0).exp()))
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.token_embedding.weight[0, 0] += 1
    assert wrapped(copy.deepcopy(model)).sha256 == found.sha256
    assert len({found.sha256, wrapped(changed).sha256, wrapped(model, mean=0.5, std=0.5).sha256}) == 3


@pytest.mark.parametrize("name", ["coop", "promptsmooth", "pool", "apt", "capt"])
def test_learned_prompts_are_refused(name: str, dataset: Dataset) -> None:
    with pytest.raises(ModelError, match=r"^OpenClip was wrapped from functions, which take no learned prompts; load "):
        make_defence(name).fit(wrapped(), dataset, generator=stream(0, "fit"))


@pytest.mark.parametrize("way", ["a method", "a module"])
def test_the_image_encoder_can_be_taught_and_the_users_stays(way: str, dataset: Dataset) -> None:
    model = open_clip()
    before = copy.deepcopy(model.state_dict())
    found = wrapped(model, encode_image=model.visual if way == "a module" else model.encode_image)
    defence = make_defence("full-fine-tune", {"epochs": 15, "batch": 12, "lr": 0.05, "tower_lr": 0.01})
    state = defence.fit(found, dataset, generator=stream(0, "fit"))
    tuned = defence.apply(found, dataset.task, state)
    assert (tuned(dataset.images()).argmax(dim=1) == dataset.labels).float().mean() >= 0.9
    assert not torch.allclose(tuned.encode(dataset.images()), found.encode_image(dataset.images()))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(weight.requires_grad for weight in model.parameters())


def test_a_function_cannot_be_taught_but_its_features_can_be_read(dataset: Dataset) -> None:
    model = open_clip()
    found = wrapped(model, encode_image=function(model.encode_image), module=model)
    with pytest.raises(ModelError, match=r"^OpenClip encodes images by a function, whose weights cannot be changed; "):
        make_defence("full-fine-tune").fit(found, dataset, generator=stream(0, "fit"))
    defence = make_defence("linear-probe", {"epochs": 30, "batch": 12, "lr": 0.05})
    state = defence.fit(found, dataset, generator=stream(0, "fit"))
    answers = defence.apply(found, dataset.task, state)(dataset.images()).argmax(dim=1)
    assert (answers == dataset.labels).float().mean() >= 0.9


def test_prompts_that_a_tokenizer_cuts_off_before_they_differ_are_refused() -> None:
    long = "a " * 40
    with pytest.raises(PromptError, match=r"^the tokenizer of OpenClip reads .* alike; shorten them") as caught:
        wrapped().encode_text(["short", f"{long} red", f"{long} blue"])
    assert caught.value.index == 2


def function(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same as a function that does not say whose method it is."""
    return partial(method)


def in_training(model: OpenClip) -> dict[str, Any]:
    model.train()
    return {}


REFUSED: dict[str, tuple[Any, str]] = {
    "no weights": (lambda m: {"encode_image": function(m.visual), "encode_text": function(m.encode_text)},
                   r"^the model comes from functions whose weights cannot be seen; pass module="),
    "weights of one": (lambda m: {"encode_text": function(m.encode_text)},
                       r"^OpenClip comes from functions whose weights cannot be seen"),
    "training": (in_training, r"^OpenClip is in training mode; call \.eval\(\)"),
    "a logarithm": (lambda m: {"logit_scale": m.logit_scale}, r"logit_scale is a parameter, which holds the logarithm"),
    "no scale": (lambda m: {"logit_scale": 0.0}, r"logit_scale is 0\.0, expected a positive number"),
    "ids as lists": (lambda m: {"tokenizer": lambda texts: [[1], [2]]},
                     r'returned a list, expected a tensor or a mapping .* return_tensors="pt"'),
    "a map": (lambda m: {"encode_image": lambda x: x, "module": m},
              r"^the image encoder of OpenClip returned torch\.float32 of shape \(2, 3, 16, 16\)"),
    "widths": (lambda m: {"encode_image": nn.Flatten().eval()},
               r"text features of shape \(2, 8\), expected finite ones of shape \(2, 768\) as its image features"),
    "unsteady texts": (lambda m: {"encode_text": lambda t: F.dropout(m.encode_text(t)), "module": m},
                       r"gives the same text other features each time"),
    "a failing tokenizer": (lambda m: {"tokenizer": lambda texts: 1 / 0},
                            r"failed on the texts .* \(ZeroDivisionError: division by zero\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_together_is_refused(case: str) -> None:
    more, sentence = REFUSED[case]
    model = open_clip()
    with pytest.raises(ModelError, match=sentence):
        wrapped(model, **more(model))


def test_features_behind_names_are_found() -> None:
    model = open_clip()
    found = wrapped(
        model, module=model,
        encode_image=lambda x: {"image_embeds": model.visual(x)},
        encode_text=lambda t: SimpleNamespace(text_embeds=model.encode_text(t)),
    )  # fmt: skip
    images = torch.rand(2, 3, SIDE, SIDE)
    assert torch.equal(found.encode_image(images), model.visual(images))
    assert torch.equal(found.encode_text(["a"]), model.encode_text(tokenize(["a"])))
