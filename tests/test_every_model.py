"""Every entry of the table of models; the embedded ones are loaded and asked."""

from pathlib import Path

import pytest
import torch

from medrobust.data import load_task, open_dataset
from medrobust.defences import make
from medrobust.models import BUILTIN, MODELS, load
from medrobust.models.clip import Clip
from medrobust.types import VisionLanguageModel

EMBEDDED = [name for name, entry in MODELS.items() if entry.source == "embedded"]


@pytest.mark.parametrize("name", MODELS)
def test_an_entry_says_where_from_and_under_which_licence(name: str) -> None:
    entry = MODELS[name]
    assert entry.name == name
    assert entry.licence
    assert entry.title
    assert entry.image_size % 4 == 0
    assert entry.source == "embedded" or entry.source.count("/") == 1


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
    classifier = make("zero-shot").apply(model, data.task, {})
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
