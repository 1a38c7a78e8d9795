"""PromptSmooth++: tokens that help against noise, deltas that live for one image, and one noise for everybody."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import flatten

from medrobust.data.task import Dataset, Task
from medrobust.defences import make_defence
from medrobust.defences.adaptation import changed, changed_weights, merged, starting_state
from medrobust.defences.context import add_noise
from medrobust.defences.promptsmooth import PromptSmooth, entropy_of_mean, noisy_copies, promptsmooth
from medrobust.defences.promptsmooth_plus import PromptSmoothPlus, first_tokens, promptsmooth_plus
from medrobust.defences.state import check_header, header_of
from medrobust.errors import ConfigError, ModelError, StateError
from medrobust.jobs.certify import certify_image, reopen_certified
from medrobust.jobs.experiment import Choice, Experiment
from medrobust.jobs.run import run
from medrobust.models.clip import Clip
from medrobust.results import read_rows
from medrobust.seeds import stream
from medrobust.smoothing import encoding
from medrobust.smoothing.certify import Smoothing, certify
from medrobust.smoothing.encoding import lean_sampler
from medrobust.smoothing.sampling import Copies, Draws, Sampler
from medrobust.tell import Tell
from medrobust.types import Classifier, State

SIGMA = 0.5
FEW = {"start": "template", "epochs": 8, "batch": 8, "lr": 0.01, "sigmas": (SIGMA,)}
ZERO = PromptSmoothPlus(mode="zero-shot", draws=20, tune_lr=0.02)
QUICK = Smoothing(SIGMA, selection=16, budget=64, stopping="fixed")


def tuned(classifier: Classifier, data: Dataset, row: int) -> Classifier:
    tune = promptsmooth_plus(ZERO).tune
    assert tune is not None
    return tune(classifier, data.read(row), sigma=SIGMA, generator=stream(0, "tune", row, SIGMA))


@pytest.fixture(scope="module")
def zero(taught: Clip, task: Task) -> Classifier:
    return promptsmooth_plus(ZERO).apply(taught, task, {})


@pytest.fixture(scope="module")
def learned(taught: Clip, misled: Dataset) -> State:
    return make_defence("promptsmooth++", FEW).fit(taught, misled, generator=stream(0, "fit"))


def noisy_loss(classifier: Classifier, data: Dataset) -> float:
    images = add_noise(data.images().repeat(8, 1, 1, 1), (SIGMA,), stream(1, "unseen noise"))
    with torch.no_grad():
        return float(torch.nn.functional.cross_entropy(classifier(images), data.labels.repeat(8)))


def test_tokens_and_context_lower_the_loss_under_noise_more_than_the_context_alone(
    taught: Clip, misled: Dataset, unseen: Dataset, learned: State
) -> None:
    alone = make_defence("promptsmooth", FEW)
    text = alone.apply(taught, misled.task, alone.fit(taught, misled, generator=stream(0, "fit")))
    both = make_defence("promptsmooth++", FEW).apply(taught, misled.task, learned)
    assert noisy_loss(both, unseen) < 0.9 * noisy_loss(text, unseen)


def test_tokens_start_where_the_frozen_model_answers_as_before(taught: Clip, task: Task, unseen: Dataset) -> None:
    images = unseen.images()
    tokens = first_tokens(taught, images, 8, stream(0, "fit"))
    own = dict(taught.vision.named_parameters())
    first = next(own[name] for name in own if name.endswith("class_embedding"))
    positions = next(own[name] for name in own if name.endswith("position_embedding.weight"))
    assert (tokens - first - positions[0]).std() == pytest.approx(0.02, rel=0.2)
    head = make_defence("zero-shot").apply(taught, task, {}).head
    prompted = merged(taught, {"prompt.tokens": tokens})
    with torch.no_grad():
        before, after = head(taught.encode_image(images)), head(prompted.encode_image(images))
    assert torch.equal(before.argmax(dim=1), after.argmax(dim=1))


def test_both_prompts_learn_each_at_its_own_rate(taught: Clip, dataset: Dataset, learned: State) -> None:
    assert (set(learned), learned["prompt.tokens"].shape) == ({"context", "prompt.tokens"}, (8, 32))
    still = {"shots": 2, "epochs": 1, "lr": 1e-12, "words": 3}

    def fitted(**settings: float) -> State:
        return make_defence("promptsmooth++", still | settings).fit(taught, dataset, generator=stream(0, "fit"))

    start, moved = fitted(), fitted(token_lr=100)
    assert (moved["prompt.tokens"] - start["prompt.tokens"]).abs().max() > 1e-4
    torch.testing.assert_close(moved["context"], start["context"], rtol=0, atol=1e-8)


def test_few_shot_is_bound_to_its_model_and_leaves_its_tower_as_it_was(
    taught: Clip, tiny: Clip, dataset: Dataset
) -> None:
    before = {key: value.clone() for key, value in taught.vision.state_dict().items()}
    defence = make_defence("promptsmooth++", FEW | {"epochs": 2, "shots": 2, "lr": 0.1})
    state = defence.fit(taught, dataset, generator=stream(0, "fit"))
    assert (defence.scope, defence.apply(taught, dataset.task, state).scope) == ("model", "model")
    assert all(torch.equal(value, before[key]) for key, value in taught.vision.state_dict().items())
    header = header_of(taught, dataset.task, "promptsmooth++", defence.settings, data="", base="", seed=0)
    with pytest.raises(StateError, match=r"was learned for model .*, asked for .*; pass --model"):
        check_header(header, tiny, dataset.task, path=Path("state.safetensors"))


def test_deltas_at_their_start_are_the_zero_shot_model(taught: Clip, task: Task, unseen: Dataset) -> None:
    images, state = unseen.images(), starting_state(taught.vision, "attention", rank=4, generator=stream(0, "tune"))
    expected = make_defence("zero-shot").apply(taught, task, {})(images)
    torch.testing.assert_close(promptsmooth_plus(ZERO).apply(taught, task, {})(images), expected)
    layers = {key.removeprefix("lora.").rpartition(".")[0] for key in state}
    assert len(layers) == 2 * 2  # two blocks of the tiny tower
    assert {name.rpartition(".")[2] for name in layers} == {"q_proj", "v_proj"}
    assert torch.equal(changed(taught, state).encode_image(images), taught.encode_image(images))


def test_tuning_lowers_the_entropy_of_the_mean_and_not_the_towers_weights(
    taught: Clip, zero: Classifier, unseen: Dataset
) -> None:
    before = {key: value.clone() for key, value in taught.vision.state_dict().items()}
    for row in range(4):
        noisy = noisy_copies(unseen.read(row), sigma=SIGMA, draws=20, generator=stream(0, "tune", row, SIGMA))
        with torch.no_grad():
            entropies = [
                float(entropy_of_mean(one(noisy).log_softmax(dim=-1))) for one in (zero, tuned(zero, unseen, row))
            ]
        assert entropies[1] < 0.99 * entropies[0]
    assert all(torch.equal(value, before[key]) for key, value in taught.vision.state_dict().items())
    assert not any(weight.grad is not None for weight in taught.vision.parameters())


def test_the_noise_tuned_on_is_that_of_promptsmooth(
    taught: Clip, task: Task, zero: Classifier, unseen: Dataset
) -> None:
    seen: list[torch.Tensor] = []

    def watching(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return taught.encode_image(images)

    other = promptsmooth(PromptSmooth(mode="zero-shot", draws=20))
    assert other.tune is not None
    text = replace(other.apply(taught, task, {}), encode=watching)
    other.tune(text, unseen.read(0), sigma=SIGMA, generator=stream(0, "tune", 0, SIGMA))
    noisy = noisy_copies(unseen.read(0), sigma=SIGMA, draws=20, generator=stream(0, "tune", 0, SIGMA))
    handle = taught.vision.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    try:
        tuned(zero, unseen, 0)
    finally:
        handle.remove()
    assert torch.equal(seen[0], noisy)
    assert torch.equal(seen[1], noisy)


def test_tuning_starts_anew_for_every_image(zero: Classifier, unseen: Dataset) -> None:
    images = unseen.images(range(3))

    def answers(order: list[int]) -> dict[int, torch.Tensor]:
        with torch.no_grad():
            return {row: tuned(zero, unseen, row)(images) for row in order}

    forward, backward = answers([0, 1, 2]), answers([2, 1, 0, 1])
    assert all(torch.equal(forward[row], backward[row]) for row in range(3))
    assert not torch.equal(forward[0], forward[1])


def test_a_tuned_tower_sees_the_noise_of_its_base_by_the_same_code(
    taught: Clip, zero: Classifier, unseen: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[object] = []
    real = encoding.difference

    def counted(*said: object, **more: object) -> float:
        compared.append(said[0])
        return real(*said, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(encoding, "difference", counted)
    sampler, everyone = lean_sampler(16), torch.tensor([True, True])
    untouched = starting_state(taught.vision, "attention", rank=4, generator=stream(0, "tune"))
    for _ in range(2):  # deltas of zero must answer every noisy copy as the base does
        same = replace(zero, encode=taught.encode_image.adapted(changed_weights(taught.vision, untouched)))
        copies = Copies([zero, same], unseen.read(0), sampler)
        for (_, first), (_, second) in copies.answers(Draws(SIGMA, 64, "estimation", 0, "a"), lambda: everyone):
            assert torch.equal(first, second)
    assert len(compared) == len(sampler._made) == 1
    adapted = taught.encode_image.adapted(changed_weights(taught.vision, untouched))
    made = sampler.encoder(adapted, unseen.read(0))
    assert made.kernel.startswith("lean ViT")


@pytest.mark.parametrize("lean", [True, False])
def test_a_certificate_does_not_depend_on_who_else_is_certified(
    taught: Clip, zero: Classifier, unseen: Dataset, lean: bool
) -> None:
    image, state = unseen.read(3), starting_state(taught.vision, "attention", rank=4, generator=stream(0, "tune"))
    far = {key: value + (1 if key.endswith(".b") else 0) for key, value in state.items()}
    one = replace(zero.tuned(zero.head), encode=zero.encode.adapted(changed_weights(taught.vision, far)))
    sampler, rule = lean_sampler(32) if lean else Sampler(32), replace(QUICK, sigma=2.0)  # where votes are divided
    (alone,) = certify([one], image, rule, seed=0, item="3", sampler=sampler)
    first, second = certify([zero, one], image, rule, seed=0, item="3", sampler=sampler)
    assert second == alone
    assert second.votes != first.votes
    assert (first.scope, second.scope) == ("model", "tuned on input")


def test_combined_tunes_on_top_of_the_prompts_and_certifies_whole_images(
    taught: Clip, misled: Dataset, unseen: Dataset, learned: State
) -> None:
    defence = make_defence("promptsmooth++", FEW | {"mode": "combined", "draws": 10, "tune_lr": 0.02})
    base = defence.apply(taught, misled.task, learned)
    assert defence.tune is not None
    one = defence.tune(base, unseen.read(0), sigma=SIGMA, generator=stream(0, "tune"))
    with torch.no_grad():
        assert not torch.equal(one(unseen.images(range(2))), base(unseen.images(range(2))))
    for found in certify([base, one], unseen.read(0), QUICK, seed=0, item="0", sampler=lean_sampler(32)):
        assert found.trials == 64


def test_a_run_foretells_the_towers_it_will_tune_and_can_be_made_again(
    checkpoint: Path, picture_folder: Path, task_file: Path, tmp_path: Path
) -> None:
    tuned_here = Choice(defence="promptsmooth++", settings={"mode": "zero-shot", "draws": 4, "tune_lr": 0.02})
    experiment = Experiment(
        model=str(checkpoint), data=str(picture_folder), task=str(task_file), sigmas=(0.25,), selection=8, n=64,
        look=8, batch=8, threads=1, limit=2, defences=(Choice(defence="zero-shot"), tuned_here),
    )  # fmt: skip
    said: list[str] = []
    run(experiment, tmp_path / "run", tell=Tell(said.append))
    assert "2 images, 2 defences, 2 encoder(s) by lean ViT, " in said[-1]
    rows = read_rows(tmp_path / "run" / "certified.jsonl")
    assert {row.defence: row.scope for row in rows} == {
        "zero-shot": "model", "promptsmooth++:zero-shot": "tuned on input"
    }  # fmt: skip
    bench, fitted, sampler = reopen_certified(tmp_path / "run")
    (rule,) = bench.levels
    last = rows[-2:]
    image = bench.data.read(bench.data.ids.index(last[0].id))
    assert certify_image(image, last[0].id, last[0].label, fitted, rule, sampler, seed=experiment.seed) == last


def test_what_cannot_be_tuned_is_refused_by_name(zero: Classifier, unseen: Dataset) -> None:
    tune = promptsmooth_plus(ZERO).tune
    assert tune is not None
    with pytest.raises(
        ModelError, match="the encoder is a function, whose weights cannot be changed; take the encoder of a"
    ):
        tune(replace(zero, encode=flatten), unseen.read(0), sigma=SIGMA, generator=stream(0, "a"))
    with pytest.raises(StateError, match=r"\(Linear\) has no layers of its own for queries and values"):
        starting_state(torch.nn.Linear(2, 2), "attention", generator=stream(0, "a"))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tokens": 0}, r"^promptsmooth\+\+: tokens = 0: input should be greater than or equal to 1$"),
        ({"token_lr": -1}, r"^promptsmooth\+\+: token_lr = -1: input should be greater than 0$"),
        ({"mode": "test-time"}, r"^promptsmooth\+\+: mode = 'test-time': input should be 'few-shot', 'zero-shot' or "),
        ({"ranks": 2}, r"^promptsmooth\+\+ has no setting 'ranks' \(did you mean 'rank'\?\); it has shots, words, "),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make_defence("promptsmooth++", settings)
