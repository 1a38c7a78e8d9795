"""PromptSmooth: the entropy it lowers, image by image, and the noisy accuracy that few shots raise."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.special import log_softmax
from scipy.stats import entropy
from toys import one_pixel

from medrobust.data.task import Dataset, Task
from medrobust.defences.context import add_noise
from medrobust.defences.heads import PromptHead, start_context
from medrobust.defences.promptsmooth import PromptSmooth, entropy_of_mean, noisy_features, promptsmooth, sharpen
from medrobust.models.clip import Clip
from medrobust.seeds import stream
from medrobust.types import Classifier

SIGMA = 0.5
grids = arrays(np.float64, array_shapes(min_dims=2, max_dims=3, max_side=6), elements=st.floats(-30, 30))


@given(grids)
def test_the_entropy_of_the_mean_is_scipys(logits: np.ndarray) -> None:
    log_probabilities = log_softmax(logits, axis=-1)
    found = entropy_of_mean(torch.from_numpy(log_probabilities))
    np.testing.assert_allclose(found.numpy(), entropy(np.exp(log_probabilities).mean(axis=-2), axis=-1), atol=1e-6)


def test_entropy_and_gradient_are_numbers_where_a_probability_underflows() -> None:
    logits = torch.tensor([[0.0, -200.0], [0.0, -300.0]], requires_grad=True)
    found = entropy_of_mean(logits.log_softmax(dim=-1))
    found.backward()
    assert found.item() == 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def head_of(classifier: Classifier) -> PromptHead:
    assert isinstance(classifier.head, PromptHead)
    return classifier.head


def entropy_under_noise(classifier: Classifier, image: torch.Tensor) -> float:
    features = noisy_features(classifier, image, sigma=SIGMA, draws=100, generator=stream(0, "tune"))
    with torch.no_grad():
        return float(entropy_of_mean(classifier.head(features).log_softmax(dim=-1)))


def test_one_step_lowers_the_entropy_of_the_mean_prediction(taught: Clip, task: Task, unseen: Dataset) -> None:
    defence = promptsmooth(PromptSmooth(mode="zero-shot"))
    classifier = defence.apply(taught, task, {})
    for row in range(6):
        assert defence.tune is not None
        image = unseen.read(row)
        tuned = defence.tune(classifier, image, sigma=SIGMA, generator=stream(0, "tune"))
        assert entropy_under_noise(tuned, image) < entropy_under_noise(classifier, image)


def test_the_step_is_adamws_on_the_context_alone(taught: Clip, task: Task, unseen: Dataset) -> None:
    classifier = promptsmooth(PromptSmooth(mode="zero-shot")).apply(taught, task, {})
    head = head_of(classifier)
    features = noisy_features(classifier, unseen.read(0), sigma=SIGMA, draws=10, generator=stream(0, "tune"))
    step = sharpen(head, features, lr=5e-3, steps=1) - head.context * (1 - 5e-3 * 0.01)
    # the first step of Adam is as long as the learning rate, shorter only where a gradient is hardly above its eps
    assert step.abs().max() < 5e-3 * 1.001
    assert step.abs().median() == pytest.approx(5e-3, rel=0.01)


def test_tuning_starts_anew_for_every_image(taught: Clip, task: Task, unseen: Dataset) -> None:
    defence = promptsmooth(PromptSmooth(mode="zero-shot", draws=20))
    classifier = defence.apply(taught, task, {})
    start = head_of(classifier).context.clone()

    def contexts(order: list[int]) -> dict[int, torch.Tensor]:
        assert defence.tune is not None
        found = {}
        for row in order:
            generator = stream(0, "tune", row, SIGMA)
            found[row] = head_of(defence.tune(classifier, unseen.read(row), sigma=SIGMA, generator=generator)).context
        return found

    forward, backward = contexts([0, 1, 2]), contexts([2, 1, 0, 1])
    assert all(torch.equal(forward[row], backward[row]) for row in range(3))
    assert not torch.equal(forward[0], forward[1])
    assert torch.equal(head_of(classifier).context, start)


def test_zero_shot_starts_from_the_template_and_combined_from_what_was_learned(taught: Clip, task: Task) -> None:
    learned = {"context": torch.randn(4, 32)}
    zero = promptsmooth(PromptSmooth(mode="zero-shot")).apply(taught, task, learned)
    combined = promptsmooth(PromptSmooth(mode="combined")).apply(taught, task, learned)
    assert torch.equal(head_of(zero).context, start_context(taught, task.templates[0]))
    assert torch.equal(head_of(combined).context, learned["context"])


def test_the_noise_tuned_on_has_the_certifications_sigma(task: Task, taught: Clip, unseen: Dataset) -> None:
    flat = Classifier(lambda images: images.flatten(1), lambda features: features)
    image = unseen.read(0)
    for sigma in (0.25, 1.0):
        noise = noisy_features(flat, image, sigma=sigma, draws=50, generator=stream(0, "tune")) - image.flatten()
        assert noise.std() == pytest.approx(sigma, rel=0.02)
        assert abs(float(noise.mean())) < 0.02


def test_a_head_without_a_context_cannot_be_tuned(unseen: Dataset) -> None:
    tune = promptsmooth(PromptSmooth(mode="zero-shot")).tune
    assert tune is not None
    with pytest.raises(TypeError, match=r"tuning needs a head with a learned context, got function"):
        tune(one_pixel(0.5), unseen.read(0), sigma=SIGMA, generator=stream(0, "tune"))


def noisy_accuracy(classifier: Classifier, data: Dataset) -> float:
    images = add_noise(data.images().repeat(8, 1, 1, 1), (SIGMA,), stream(1, "unseen noise"))
    with torch.no_grad():
        return float((classifier(images).argmax(dim=1) == data.labels.repeat(8)).float().mean())


def test_few_shots_raise_the_noisy_accuracy_over_a_misleading_start(
    taught: Clip, misled: Dataset, unseen: Dataset
) -> None:
    start = promptsmooth(PromptSmooth(mode="zero-shot")).apply(taught, misled.task, {})
    few_shot = promptsmooth(PromptSmooth(start="template", epochs=15, batch=8, lr=0.02, sigmas=(SIGMA,)))
    state = few_shot.fit(taught, misled, generator=stream(0, "fit"))
    assert noisy_accuracy(start, unseen) < 0.9
    assert noisy_accuracy(few_shot.apply(taught, misled.task, state), unseen) > 0.95
