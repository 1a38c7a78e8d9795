"""Every entry of the table of models; the embedded ones are loaded and asked."""

import pytest
import torch

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
    if not (BUILTIN / "model.safetensors").is_file():
        pytest.skip("model.safetensors of the built-in model is not made yet: medrobust pretrain builtin")
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
