"""How a run decides to encode: the lean path where it is equal, a batch that was measured, nothing in silence."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import one_pixel

from medrobust.data.task import Task
from medrobust.defences.zero_shot import zero_shot
from medrobust.errors import SmoothingError
from medrobust.models.clip import Clip
from medrobust.models.read_vit import parts_of
from medrobust.smoothing import encoding
from medrobust.smoothing.certify import Smoothing, certify
from medrobust.smoothing.encoding import BATCHES, EncoderChoice, choose_sampler, lean_sampler
from medrobust.smoothing.sampling import Sampler
from medrobust.types import Classifier, Image, ModuleEncoder

QUICK = Smoothing(0.25, selection=8, budget=64, look=8)


@pytest.fixture(scope="module")
def image() -> Image:
    return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def classifier(tiny: Clip, task: Task) -> Classifier:
    return zero_shot().apply(tiny, task, {})


def sampler_for(
    classifier: Classifier, image: Image, *, images: int = 3, smoothing: Smoothing = QUICK, **wanted: object
) -> tuple[Sampler, list[str]]:
    said: list[str] = []
    chosen = EncoderChoice(**wanted)  # type: ignore[arg-type]
    found = choose_sampler([classifier], image, chosen, smoothings=[smoothing], images=images, say=said.append)
    return found, said


def test_a_vision_transformer_takes_the_lean_path_in_silence(classifier: Classifier, image: Image) -> None:
    sampler, said = sampler_for(classifier, image, batch=8)
    assert sampler.kernels == ["lean ViT, latent noise, oneDNN float32, eager"]
    assert (sampler.batch, said) == (8, [])


def test_the_lean_path_and_whole_images_agree_about_the_votes(tiny: Clip, task: Task, image: Image) -> None:
    many = Smoothing(0.25, selection=8, budget=4000, stopping="fixed")
    classifier = zero_shot().apply(tiny, task, {})
    shares = []
    for sampler in (lean_sampler(), Sampler(64)):
        (found,) = certify([classifier], image, many, seed=0, item="a", sampler=sampler)
        shares.append(found.votes / found.trials if found.selected == 0 else 1 - found.votes / found.trials)
    assert shares[0] == pytest.approx(shares[1], abs=4 * (0.5 / 4000) ** 0.5)


def test_another_encoder_is_encoded_whole_and_that_is_said_once(image: Image) -> None:
    other = one_pixel(0.5)
    found, said = sampler_for(other, image, batch=8)
    assert said == ["noisy images are encoded whole: the encoder is no vision transformer that tells its parts"]
    assert found.kernels == ["whole images (the encoder is no vision transformer that tells its parts)"]


class Liar(torch.nn.Module):
    """A tower that does not compute what its parts say."""

    def __init__(self, tower: torch.nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.tower(images) * 1.01


def test_a_tower_that_is_not_what_its_parts_say_is_encoded_whole(tiny: Clip, task: Task, image: Image) -> None:
    classifier = zero_shot().apply(tiny, task, {})
    liar = ModuleEncoder(Liar(tiny.vision), lambda tower: parts_of(tower.tower))
    found, said = sampler_for(replace(classifier, encode=liar), image, batch=8)
    assert len(said) == 1
    assert "the lean path's features differ from the model's by 9.9e-03" in said[0]
    assert found.kernels[0].startswith("whole images")


@pytest.mark.parametrize("wanted", [{"dtype": torch.bfloat16}, {"compile": True}])
def test_what_only_the_lean_path_can_is_refused_elsewhere(image: Image, wanted: dict) -> None:
    with pytest.raises(SmoothingError, match="only the lean path knows other number formats and compiling"):
        sampler_for(one_pixel(0.5), image, batch=8, **wanted)


def test_half_precision_is_another_network_and_says_so(classifier: Classifier, image: Image) -> None:
    sampler, _ = sampler_for(classifier, image, batch=8, dtype=torch.bfloat16)
    (kernel,) = sampler.kernels
    assert "bfloat16" in kernel
    (found,) = certify([classifier], image, QUICK, seed=0, item="a", sampler=sampler)
    assert found.drawn > 0


def test_features_that_overflow_in_half_precision_are_refused(
    taught_checkpoint: Path, task: Task, image: Image
) -> None:
    from medrobust.models import load

    model = load(str(taught_checkpoint))
    with torch.no_grad():
        model.vision.projection.weight.mul_(1e6)
    with pytest.raises(SmoothingError, match="in float16 the features differ from float32's by"):
        sampler_for(zero_shot().apply(model, task, {}), image, batch=8, dtype=torch.float16)


def test_a_batch_is_measured_where_none_is_named(classifier: Classifier, image: Image) -> None:
    assert sampler_for(classifier, image)[0].batch in BATCHES["cpu"]


def test_the_batch_is_the_one_that_takes_least_time(
    classifier: Classifier, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(_c: object, _i: object, _s: object, sampler: Sampler) -> float:
        return {8: 3.0, 16: 2.0, 32: 1.0, 64: 0.995, 128: 1.0}[sampler.batch]

    monkeypatch.setattr(encoding, "seconds_a_copy", seconds)
    monkeypatch.setattr(encoding, "compiler_missing", lambda: "no compiler")
    few = Smoothing(0.25, selection=100, budget=1000)
    assert sampler_for(classifier, image, smoothing=few)[0].batch == 32  # 64 and more pad what is drawn


def test_a_long_run_is_compiled_where_there_is_a_compiler(
    classifier: Classifier, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[bool] = []

    def lean(vit: object, *, dtype: torch.dtype = torch.float32, compile: bool = False) -> object:
        compiled.append(compile)
        return original(vit, dtype=dtype)  # type: ignore[arg-type]

    original = encoding.lean_encoder
    monkeypatch.setattr(encoding, "lean_encoder", lean)
    monkeypatch.setattr(encoding, "seconds_a_copy", lambda *_: 0.01)
    monkeypatch.setattr(encoding, "compiler_missing", lambda: None)
    monkeypatch.setattr(encoding, "compiling_pays", lambda _vit, _dtype: False)
    sampler_for(classifier, image, batch=8, images=10_000)
    assert not any(compiled)
    monkeypatch.setattr(encoding, "compiling_pays", lambda _vit, _dtype: True)
    sampler_for(classifier, image, batch=8, images=100)
    assert not any(compiled)
    sampler_for(classifier, image, batch=8, images=10_000)
    assert compiled[-1]
    sampler_for(classifier, image, batch=8, images=10_000, compile=False)
    assert not compiled[-1]
    monkeypatch.setattr(encoding, "compiler_missing", lambda: "no C++ compiler")
    _, said = sampler_for(classifier, image, batch=8, images=10_000)
    assert said == ["the encoder is not compiled: no C++ compiler"]
    with pytest.raises(SmoothingError, match=r"cannot be compiled here: no C\+\+ compiler; leave out --compile"):
        sampler_for(classifier, image, batch=8, compile=True)


def test_a_changed_model_is_not_taken_for_the_one_before(taught_checkpoint: Path, task: Task, image: Image) -> None:
    """The lean path copies weights: a new sampler sees a model that was changed in place."""
    from medrobust.models import load

    model = load(str(taught_checkpoint))
    classifier = zero_shot().apply(model, task, {})
    before = sampler_for(classifier, image, batch=8)[0].encoder(classifier.encode, image)
    with torch.no_grad():
        model.vision.projection.weight.mul_(-1.0)
    after = sampler_for(classifier, image, batch=8)[0].encoder(classifier.encode, image)
    draws = torch.zeros(8, *before.shape)
    assert torch.allclose(after.at(image, 0.25)(draws), -before.at(image, 0.25)(draws), atol=1e-5)
