"""Every entry of the table of models, and every family: the embedded models are loaded, the others in small."""

import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from checkpoints import write_biomedclip, write_chexzero, write_medclip, write_quiltnet, write_siglip
from conch_stand_in import package, write_conch

from medrobust.attacks.ball import Ball
from medrobust.attacks.pgd import Pgd
from medrobust.data import load_task, open_dataset
from medrobust.data.task import Dataset, Task
from medrobust.defences import make_defence
from medrobust.errors import ModelError
from medrobust.jobs.bench import Bench, environment_of
from medrobust.jobs.experiment import Experiment
from medrobust.models import BUILTIN, MODELS, load
from medrobust.models.clip import Clip
from medrobust.models.known import BY_HAND
from medrobust.seeds import stream
from medrobust.smoothing.certify import Smoothing, certify
from medrobust.smoothing.encoding import lean_sampler
from medrobust.smoothing.fast_vit import difference, lean_encoder
from medrobust.types import Encoder, VisionLanguageModel
from medrobust.types.vit import NotAViT

EMBEDDED = [name for name, entry in MODELS.items() if entry.source == "embedded"]


@pytest.mark.parametrize("name", MODELS)
def test_an_entry_says_where_from_and_under_which_licence(name: str) -> None:
    entry = MODELS[name]
    assert entry.name == name
    assert entry.licence
    assert entry.title
    assert entry.image_size % 4 == 0
    assert entry.preprocessing
    assert entry.format in BY_HAND or entry.source == "embedded" or entry.source.count("/") == 1
    assert entry.commercial_use is False or "NC" not in entry.licence
    assert entry.pinned == "not pinned" or (entry.revision or entry.sha256 or "-") in entry.pinned


@pytest.fixture(scope="module", params=EMBEDDED)
def embedded(request: pytest.FixtureRequest) -> Clip:
    return load(request.param)


def test_an_embedded_model_is_what_its_entry_says(embedded: Clip) -> None:
    entry = MODELS[embedded.name]
    assert isinstance(embedded, VisionLanguageModel)
    assert embedded.preprocess.size == entry.image_size
    assert embedded.licence == entry.licence


def test_an_embedded_model_tells_images_and_texts_apart(embedded: Clip) -> None:
    side = embedded.preprocess.size
    features = embedded.encode_image(torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)))
    texts = embedded.encode_text(["a photo of a lymphocyte.", "a photo of a platelet."])
    assert features.shape == texts.shape
    for found in (features, texts):
        assert found.isfinite().all()
        assert not torch.allclose(found[0], found[1], atol=1e-3)
    assert embedded.logit_scale > 1


def accuracy(model: Clip, source: str, task: str, limit: int) -> float:
    data = open_dataset(source, load_task(task), preprocess=model.preprocess, limit=limit)
    classifier = make_defence("zero-shot").apply(model, data.task, {})
    with torch.no_grad():
        return float((classifier(data.images()).argmax(dim=1) == data.labels).float().mean())


def test_the_built_in_model_knows_the_phantom() -> None:
    assert accuracy(load("builtin"), "phantom", "phantom", 64) >= 0.95


@pytest.mark.parametrize(
    ("file", "task", "least"),
    [("blood_pbc_28_subset.npz", "bloodmnist", 0.87), ("pneumoniamnist_subset.npz", "pneumoniamnist", 0.85)],
)
def test_the_built_in_model_knows_real_images(real_data: Path, file: str, task: str, least: float) -> None:
    assert accuracy(load("builtin"), str(real_data / file), task, 160) >= least


def test_the_built_in_model_is_as_small_as_its_card_says() -> None:
    card = (BUILTIN / "MODEL_CARD.md").read_text(encoding="utf-8")
    weights = BUILTIN / "model.safetensors"
    assert weights.stat().st_size <= 12e6
    assert load("builtin").sha256 in card
    assert "Not a medical device" in card


class Promise(NamedTuple):
    """What works with a family; the guide for users shows the same table."""

    write: Callable[[Path, Path], Any] | None
    spec: str
    deep: bool  # prompts in deeper layers of both towers
    fast: bool  # the lean path of certificates


# each row is said in docs/howto/own-model.md too
TABLE = {
    "CLIP, PLIP, builtin": Promise(None, "{}", deep=True, fast=True),
    "QuiltNet, CLIPs of open_clip": Promise(write_quiltnet, "{}", deep=True, fast=True),
    "CheXzero": Promise(write_chexzero, "chexzero={}", deep=True, fast=True),
    "BiomedCLIP": Promise(write_biomedclip, "{}", deep=True, fast=True),
    "MedCLIP (Swin)": Promise(write_medclip, "medclip-vit={}", deep=False, fast=False),
    "SigLIP, MedSigLIP": Promise(write_siglip, "{}", deep=True, fast=False),
    "CONCH": Promise(write_conch, "conch={}", deep=False, fast=False),
}
every_family = pytest.mark.parametrize("family", TABLE)
FEW = {"shots": 1, "epochs": 1, "batch": 3, "words": 2}


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Callable[[str], Clip]]:
    """A small random model of a family, loaded once from the files that its own library writes."""
    kept: dict[str, Clip] = {}

    def read(family: str) -> Clip:
        if family not in kept:
            folder = tmp_path_factory.mktemp("family")
            promise = TABLE[family]
            if promise.write is not None:
                promise.write(folder, checkpoint)
            kept[family] = load(promise.spec.format(folder if promise.write else checkpoint))
        return kept[family]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "conch", types.ModuleType("conch"))
        patch.setitem(sys.modules, "conch.open_clip_custom", package())
        yield read


Models = Callable[[str], Clip]


def sized(data: Dataset, model: Clip) -> Dataset:
    """The same images in the model's size."""
    size = model.preprocess.size
    images = torch.nn.functional.interpolate(data.images(), (size, size))
    return replace(data, read=images.__getitem__)


@every_family
def test_a_family_loads(family: str, model_of: Models) -> None:
    model = model_of(family)
    assert isinstance(model, VisionLanguageModel)
    side = model.preprocess.size
    features = model.encode_image(torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)))
    texts = model.encode_text(["a photo of red paint.", "blue"])
    assert features.shape == texts.shape
    for found in (features, texts):
        assert found.isfinite().all()
        assert not torch.allclose(found[0], found[1], atol=1e-3)
    assert not any(p.requires_grad for part in (model.vision, model.text) for p in part.parameters())
    assert not model.vision.training
    assert not model.text.training
    assert len(model.sha256) == 64


@every_family
def test_a_family_takes_learned_context(family: str, model_of: Models, dataset: Dataset, task: Task) -> None:
    model = model_of(family)
    defence = make_defence("promptsmooth", FEW)
    state = defence.fit(model, sized(dataset, model), generator=stream(0, "fit"))
    start = model.embed_words("a photo of").requires_grad_(True)
    model.encode_text(["red paint"], start).square().sum().backward()
    assert start.grad is not None
    assert (start.grad.abs().sum(dim=1) > 0).all()
    images = sized(dataset, model).images(range(4))
    with torch.no_grad():
        learned = defence.apply(model, task, state)(images)
        assert learned.isfinite().all()
        assert not torch.allclose(learned, make_defence("zero-shot").apply(model, task, {})(images), atol=1e-4)


@every_family
def test_a_family_takes_deep_prompts_or_says_why_not(family: str, model_of: Models, dataset: Dataset) -> None:
    model = model_of(family)
    defence = make_defence("capt", {"epochs": 1, "batch": 12, "attack_steps": 1, "coupling": "none"})
    data = sized(dataset, model)
    if not TABLE[family].deep:
        with pytest.raises(NotAViT, match=r"the image encoder is a \w+, which takes no learned tokens"):
            defence.fit(model, data, generator=stream(0, "fit"))
        return
    shape = model.prompt_shape()
    assert min(shape.vision_layers, shape.text_layers) >= 2
    state = defence.fit(model, data, generator=stream(0, "fit"))
    assert state["prompt.deep"].shape == (shape.vision_layers - 1, 2, shape.vision_width)
    assert state["deep_context"].shape == (shape.text_layers - 1, 2, shape.text_width)
    with torch.no_grad():
        logits = defence.apply(model, dataset.task, state)(data.images(range(3)))
    assert logits.isfinite().all()


@every_family
def test_a_family_is_certified_by_the_path_that_is_promised(family: str, model_of: Models, dataset: Dataset) -> None:
    model = model_of(family)
    data = sized(dataset, model)
    image, sampler = data.read(0), lean_sampler(batch=8)
    classifier = make_defence("zero-shot").apply(model, dataset.task, {})
    smoothing = Smoothing(0.05, selection=16, budget=64, stopping="fixed")
    (found,) = certify([classifier], image, smoothing, seed=0, item="one", sampler=sampler)
    assert found.trials == 64
    assert 0 <= found.votes <= 64
    (kernel,) = sampler.kernels
    assert kernel.startswith("lean ViT" if TABLE[family].fast else "whole images (")
    if TABLE[family].fast:
        lean = lean_encoder(model.encode_image.parts())
        assert difference(lean, model.encode_image, image, 0.25, stream(0, "apart")) < 1e-5


@every_family
def test_a_family_has_an_encoder_with_parts_where_it_is_a_vit(family: str, model_of: Models) -> None:
    model = model_of(family)
    encode, side = model.encode_image, model.preprocess.size
    assert isinstance(encode, Encoder)
    assert encode == model.encode_image
    if TABLE[family].fast:
        assert encode.parts().size == side
    else:
        with pytest.raises(NotAViT, match=r"\w+ "):
            encode.parts()
    name, weight = next((n, w) for n, w in encode.tower().named_parameters() if w.ndim == 2)
    adapted = encode.adapted({name: 2 * weight})
    changed = {n for n, w in adapted.tower().named_parameters() if not torch.equal(w, encode.tower().get_parameter(n))}
    assert changed == {name}
    assert adapted.like == encode
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(adapted(images), encode(images))
    with pytest.raises(ModelError, match=f"{side} x {side} pixels, got {side} x {side + 4}"):
        encode(torch.zeros(1, 3, side, side + 4))


@every_family
def test_a_family_is_attacked_through_its_pixels(family: str, model_of: Models, dataset: Dataset) -> None:
    model = model_of(family)
    images = sized(dataset, model).images(range(3))
    classifier = make_defence("zero-shot").apply(model, dataset.task, {})
    with torch.no_grad():
        labels = classifier(images).argmax(dim=1)
    seen = images.clone().requires_grad_(True)
    torch.nn.functional.cross_entropy(classifier(seen), labels).backward()
    assert seen.grad is not None
    assert (seen.grad.flatten(1).abs().sum(dim=1) > 0).all()
    ball = Ball.parse("linf", "8/255")
    moved = Pgd(steps=1, random_start=False)(classifier, images, labels, ball=ball, generator=stream(0, "attack"))
    with torch.no_grad():
        before, after = (torch.nn.functional.cross_entropy(classifier(each), labels) for each in (images, moved))
    assert after > before


def test_a_run_records_the_revision_and_the_hash(model_of: Models, dataset: Dataset, task: Task) -> None:
    model = replace(model_of("BiomedCLIP"), revision="9f341de2aa")
    experiment = Experiment(model="biomedclip", data="colours")
    found = environment_of(Bench(experiment, model, task, dataset), {})["model"]
    assert found == {
        "name": model.name,
        "sha256": model.sha256,
        "revision": "9f341de2aa",
        "licence": model.licence,
    }


def test_the_guide_shows_this_table() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "howto" / "own-model.md").read_text(encoding="utf-8")
    for family, promise in TABLE.items():
        deep, fast = ("yes" if cell else "no" for cell in (promise.deep, promise.fast))
        assert f"| {family} | yes | yes | {deep} | {fast} | yes | yes |" in guide, family
