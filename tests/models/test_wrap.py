"""A user's own network as a model: what it answers, what is refused, and that it stays as it was."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import medrobust as mr
from medrobust.attacks import Ball
from medrobust.attacks.pgd import Pgd
from medrobust.attacks.suite import run_suite
from medrobust.data.task import Dataset, Task
from medrobust.defences import DEFENCES, make_defence
from medrobust.errors import ModelError, StateError, TaskError
from medrobust.jobs.bench import Bench, model_record
from medrobust.jobs.experiment import Choice, Experiment
from medrobust.jobs.fitting import fit_all
from medrobust.models.trial import check_evaluation
from medrobust.models.wrap import WrappedClassifier
from medrobust.models.wrapped_tower import own_pixels, preprocess_of
from medrobust.seeds import stream
from medrobust.tell import Tell
from medrobust.types import HasClasses, ImageModel, VisionLanguageModel

SIDE = 16
COLOURS = ("red paint", "green paint", "blue paint")


class Brightest(nn.Module):
    """logits = scale * the mean of each channel: class k where channel k is the brightest, or `turn` channels on."""

    def __init__(self, scale: float = 10.0, turn: int = 0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.turn = turn

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images.mean(dim=(2, 3)).roll(self.turn, dims=1)


def residual() -> nn.Module:
    """A small network of the kind that hospitals train, with running statistics, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3),
        )  # fmt: skip
        network(torch.rand(8, 3, SIDE, SIDE))  # running statistics of its own
    return network.eval()


class Returns(nn.Module):
    """What a call returns, as the test says."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer
        self.eval()

    def forward(self, images: Tensor) -> Any:
        return self.answer(images)


def wrapped(module: nn.Module | None = None, **more: Any) -> WrappedClassifier:
    return mr.wrap(module or residual(), **({"classes": COLOURS, "preprocess": SIDE} | more))


def means(images: Tensor) -> Tensor:
    return images.mean(dim=(2, 3))


def test_it_answers_as_the_network_does() -> None:
    network, images = residual(), torch.rand(5, 3, SIDE, SIDE)
    model = wrapped(network)
    with torch.no_grad():
        assert torch.equal(model(images), network(images))
        assert torch.equal(model.classifier(images), network(images))
    assert (model.name, model.classes, model.preprocess) == ("Sequential", COLOURS, mr.Preprocess(SIDE, SIDE))
    assert (model.licence, model.revision, model.device) == (None, None, torch.device("cpu"))


def test_mean_and_std_are_taken_inside_once() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.1, 0.4)
    images = torch.rand(2, 3, SIDE, SIDE)
    expected = (means(images) - torch.tensor(mean)) / torch.tensor(std)
    assert torch.allclose(wrapped(Returns(means), mean=mean, std=std)(images), expected, atol=1e-5)
    assert torch.allclose(wrapped(Returns(means))(images), means(images))


def test_a_grey_network_sees_the_mean_of_three_channels() -> None:
    seen: list[Tensor] = []

    def record(images: Tensor) -> Tensor:
        seen.append(images)
        return images.flatten(1)[:, :2]

    model = wrapped(Returns(record), classes=("one", "two"), input="grey", mean=0.5, std=0.25)
    images = torch.rand(2, 3, SIDE, SIDE)
    model(images)
    assert torch.allclose(seen[-1], (images.mean(dim=1, keepdim=True) - 0.5) / 0.25, atol=1e-6)
    model(images[:, :1])
    assert torch.allclose(seen[-1], (images[:, :1] - 0.5) / 0.25, atol=1e-6)


@pytest.mark.parametrize("form", ["attribute", "mapping", "output"])
def test_logits_are_found_in_what_libraries_return(form: str) -> None:
    inside: dict[str, Any] = {
        "attribute": lambda images: SimpleNamespace(logits=means(images), loss=None),
        "mapping": lambda images: {"loss": None, "logits": means(images)},
        "output": lambda images: (None, [means(images)]),
    }
    output = (lambda found: found[1][0]) if form == "output" else None
    images = torch.rand(2, 3, SIDE, SIDE)
    assert torch.allclose(wrapped(Returns(inside[form]), output=output)(images), means(images))


def test_an_image_classifier_of_transformers() -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "num_labels": 3}
    network = ResNetForImageClassification(ResNetConfig(**sizes)).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(pixel_values=images).logits
    assert torch.equal(wrapped(network, preprocess=64)(images), expected)


def test_the_network_stays_the_users() -> None:
    network = residual()
    before = copy.deepcopy(network.state_dict())
    model = wrapped(network)
    images = torch.rand(4, 3, SIDE, SIDE)
    run_suite(model.classifier, images, model(images).argmax(dim=1), ball=Ball("linf", 0.02),
             attacks={"pgd": Pgd(steps=2)}, generator=stream(0, "attack"))  # fmt: skip
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    network.train()
    with pytest.raises(ModelError, match=r"^Sequential is in training mode; call \.eval\(\)"):
        model(images)
    assert network.training
    assert not network.eval().training
    model(images)


def test_the_gradient_is_the_networks_own_and_there_is_none_without_need() -> None:
    images = torch.rand(2, 3, SIDE, SIDE)
    model = wrapped(Brightest(2.0).eval())
    assert not model.encode_image(images).requires_grad
    leaves = images.clone().requires_grad_(True)
    model.encode_image(leaves)[:, 1].sum().backward()
    expected = torch.zeros_like(images)
    expected[:, 1] = 2.0 / SIDE**2
    assert leaves.grad is not None
    assert torch.allclose(leaves.grad, expected)


def test_its_hash_is_of_weights_buffers_and_what_is_done_to_pixels() -> None:
    network = residual()
    same, other = wrapped(copy.deepcopy(network)), copy.deepcopy(network)
    assert wrapped(network).sha256 == same.sha256
    with torch.no_grad():
        other[1].running_mean[0] += 1e-3  # type: ignore[index, operator]
    different = [
        wrapped(other), wrapped(network, mean=0.5, std=0.5), wrapped(network, classes=("a", "b", "c")),
        wrapped(network, preprocess=mr.Preprocess(SIDE, SIDE + 2)), wrapped(Returns(means)),
    ]  # fmt: skip
    assert len({same.sha256, *(model.sha256 for model in different)}) == 6
    assert wrapped(Returns(means)).sha256 == wrapped(Returns(lambda images: 2 * means(images))).sha256  # of its class


def test_weights_of_sixteen_bits() -> None:
    network = residual().to(torch.bfloat16)
    images = torch.rand(2, 3, SIDE, SIDE)
    found = wrapped(network)(images)
    assert found.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(found, network(images.to(torch.bfloat16)).float())


class Noisy(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return F.dropout(means(images))  # its own training=True


class OverTheBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(images).amax(dim=(2, 3))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1  # type: ignore[operator]
        return means(images)


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "training": (lambda: nn.Sequential(Brightest()), {},
                 r"^Sequential is in training mode; call \.eval\(\) on the network before it is wrapped$"),
    "one part in training": (lambda: nn.Sequential(Brightest()).eval().append(nn.ReLU()), {},
                             r"^1 of Sequential is in training mode; call \.eval\(\)"),
    "too few classes": (residual, {"classes": ("one",)}, r"classes is \('one',\), expected two names or more"),
    "a word": (residual, {"classes": "abc"}, r"classes is 'abc', expected two names or more"),
    "a class twice": (residual, {"classes": ("a", "b", "a")}, r"names 'a' twice; every logit needs a name"),
    "another number": (residual, {"classes": ("a", "b")}, r"returned 3 logits an image for 2 classes \(a, b\); name"),
    "one logit": (lambda: Returns(lambda x: means(x)[:, :1]), {"classes": ("a", "b")},
                  r"one number an image for the two classes a, b; .* pass output=lambda z: torch\.cat\("),
    "probabilities": (lambda: Returns(lambda x: means(x).softmax(1)), {}, r"probabilities .* pass output=torch\.log$"),
    "not finite": (lambda: Returns(lambda x: means(x).log() * torch.inf), {}, r"returned NaN or infinite logits"),
    "a pair": (lambda: Returns(lambda x: (means(x), x)), {}, r"returned a tuple, expected a tensor or an object with "
               r"logits; pass output="),
    "a map": (lambda: Returns(lambda x: x), {}, r"returned torch\.float32 of shape \(2, 3, 16, 16\), expected one row"),
    "a wrong size": (residual, {"preprocess": mr.Preprocess(SIDE, 32), "input": "grey"},
                     r"^Sequential failed on 2 images of shape \(3, 16, 16\) \(RuntimeError: .*\); check preprocess"),
    "unsteady": (lambda: Noisy().eval(), {}, r"gives the same image other logits each time: dropout or noise"),
    "neighbours": (lambda: OverTheBatch().eval(), {}, r"other logits beside another image than alone: it normalises"),
    "counting": (lambda: Counting().eval(), {}, r"^Counting changes its own weights or buffers when it answers"),
    "no values": (lambda: Brightest().eval().to("meta"), {}, r"^scale of a Brightest has no values yet"),
    "not initialised": (lambda: nn.LazyLinear(3).eval(), {}, r"^weight of a LazyLinear has no values yet"),
    "std alone": (residual, {"std": 0.5}, r"mean is None and std is 0\.5; give both, or neither"),
    "std of zero": (residual, {"mean": 0.5, "std": 0.0}, r"std is 0\.0, expected one number, or .*, above 0,"),
    "two means": (residual, {"mean": (0.5, 0.5), "std": 1.0}, r"mean is \(0\.5, 0\.5\), expected one number, or "),
    "mean of levels": (residual, {"mean": 123.0, "std": 1.0}, r"speaks of grey levels up to 255; divide it by 255$"),
    "no size": (residual, {"preprocess": 0}, r"preprocess is int '0', expected the side of its images in pixels"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_measured_is_refused_in_one_sentence(case: str) -> None:
    module, more, sentence = REFUSED[case]
    with pytest.raises(ModelError, match=sentence):
        wrapped(module(), **more)


def test_arguments_of_another_kind_are_refused() -> None:
    with pytest.raises(ModelError, match=r"^expected a torch\.nn\.Module, got a function; put it into the forward"):
        check_evaluation(means, "means")
    with pytest.raises(ModelError, match=r"input is 'gray', expected \"colour\" .* or \"grey\""):
        own_pixels("net", "gray", None, None)
    with pytest.raises(ModelError, match=r"preprocess is Identity 'Identity\(\)', expected the side of its images"):
        preprocess_of("net", nn.Identity())


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8), r"got images of torch\.uint8 .* divide grey levels by 255$"),
        (torch.zeros(3, SIDE, SIDE), r"and shape \(3, 16, 16\), .* put a single image into a batch: image\[None\]$"),
        (torch.zeros(2, SIDE, SIDE, 3), r"put the channels first: images\.permute\(0, 3, 1, 2\)$"),
        (torch.zeros(2, 1, SIDE, SIDE), r'repeat the channel three times, or wrap the network with input="grey"'),
        (
            torch.full((1, 3, SIDE, SIDE), 2.0),
            r"got pixels from 2 to 2, expected 0 to 1; .* wrap\(mean=\.\., std=\.\.\)$",
        ),
        (torch.full((1, 3, SIDE, SIDE), torch.nan), r"got pixels from nan to nan, expected 0 to 1"),
    ],
)
def test_other_images_are_refused(images: Tensor, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        wrapped()(images)


def test_noisy_pixels_are_no_error() -> None:
    assert wrapped().encode_image(torch.randn(2, 3, SIDE, SIDE)).shape == (2, 3)


def test_its_certificate_lies_within_the_distance_to_the_border(task: Task, unseen: Dataset) -> None:
    """The border between two classes of the brightest channel is a plane, so the distance is known."""
    model = wrapped(Brightest().eval())
    classifier = make_defence("undefended").apply(model, task, {})
    smoothing = mr.Smoothing(sigma=0.25, budget=4000, stopping="fixed")
    for index in range(3):
        image, label = unseen.read(index), unseen.targets[index]
        (found,) = mr.certify([classifier], image, smoothing, seed=0, item=unseen.ids[index])
        level = means(image[None])[0]
        lead = level[label] - level[[other for other in range(3) if other != label]].max()
        distance = float(lead) * SIDE / 2**0.5  # of two channels' means, each over SIDE^2 pixels
        assert found.prediction == label
        assert 0 < found.radius <= distance


def test_an_attack_breaks_what_lies_beyond_the_border_and_nothing_else(unseen: Dataset) -> None:
    classifier = wrapped(Brightest().eval()).classifier
    images, labels = unseen.images(), unseen.labels
    level = means(images)
    own = level.gather(1, labels[:, None])[:, 0]
    lead = own - level.scatter(1, labels[:, None], -torch.inf).amax(dim=1)  # linf distance: half of it
    for eps, broken in ((0.45 * float(lead.min()), False), (0.55 * float(lead.max()), True)):
        report = run_suite(classifier, images, labels, ball=Ball("linf", eps), attacks={"pgd": Pgd(steps=10)},
                          generator=stream(0, "attack"), probe=False)  # fmt: skip
        assert (classifier(report.images).argmax(dim=1) != labels).tolist() == [broken] * len(images)


def test_classes_in_another_order_are_brought_into_the_tasks(task: Task) -> None:
    model = wrapped(
        Returns(lambda images: means(images)[:, [2, 0, 1]]), classes=("blue paint", "red_paint", "Green paint")
    )
    images = torch.rand(4, 3, SIDE, SIDE)
    found = make_defence("undefended").apply(model, task, {})(images)
    assert torch.allclose(found, means(images))


def test_other_classes_are_refused(task: Task) -> None:
    with pytest.raises(TaskError, match=r"^model Returns has the classes 'a', 'b', 'c', task colours has .*unknown"):
        make_defence("undefended").apply(wrapped(Returns(means), classes=("a", "b", "c")), task, {})


TEXTS = {
    "zero-shot",
    "coop",
    "promptsmooth",
    "promptsmooth++",
    "pool",
    "vote",
    "tecoa",
    "fare",
    "pmg-aft",
    "apt",
    "capt",
}


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_defences_with_prompts_refuse_it_before_they_learn(name: str, dataset: Dataset) -> None:
    defence, model = make_defence(name), wrapped()
    with pytest.raises(ModelError, match=r"^Sequential is an image classifier without a text encoder, .*undefended"):
        defence.apply(model, dataset.task, defence.fit(model, dataset, generator=stream(0, "fit")))


@pytest.mark.parametrize("name", ["linear-probe", "mlp-probe", "full-fine-tune", "nmtune"])
def test_heads_learn_on_its_logits(name: str, dataset: Dataset) -> None:
    network = Brightest(turn=1).eval()
    before = copy.deepcopy(network.state_dict())
    model = wrapped(network)
    defence = make_defence(name, {"epochs": 15, "lr": 0.1, "batch": 12})
    state = defence.fit(model, dataset, generator=stream(0, "fit"))
    answers = defence.apply(model, dataset.task, state)(dataset.images()).argmax(dim=1)
    assert (answers == dataset.labels).float().mean() >= 0.9
    assert (model(dataset.images()).argmax(dim=1) == (dataset.labels + 1) % 3).all()  # wrong about every image
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(weight.requires_grad for weight in network.parameters())


def test_it_is_what_jobs_ask_of_a_model() -> None:
    model = wrapped()
    assert isinstance(model, ImageModel)
    assert isinstance(model, VisionLanguageModel)
    assert isinstance(model, HasClasses)
    assert model_record(model) == {"name": "Sequential", "sha256": model.sha256, "revision": None, "licence": None}


def test_a_bench_of_it_learns_keeps_and_resumes(task: Task, dataset: Dataset, unseen: Dataset, tmp_path: Path) -> None:
    network = residual()
    model = wrapped(network)
    own = Choice(defence="undefended")
    probe = Choice(defence="linear-probe", settings={"epochs": 2, "batch": 12})
    bench = Bench(Experiment(model="mine", data="given", defences=(own,)), model, task, unseen)
    (ready,) = fit_all(bench, tmp_path, Tell())
    images = unseen.images()
    assert torch.equal(ready.classifier(images), model(images))
    state = make_defence("linear-probe", probe.settings).fit(model, dataset, generator=stream(0, "fit linear-probe"))
    from medrobust.defences.state import header_of, load_checked, save_state

    header = header_of(model, task, "linear-probe", make_defence("linear-probe", probe.settings).settings,
                       data="colours", base="", seed=0)  # fmt: skip
    save_state(tmp_path / "probe.safetensors", state, header)
    load_checked(tmp_path / "probe.safetensors", wrapped(copy.deepcopy(network)), task)
    with torch.no_grad():
        network[-1].bias[0] += 1.0  # type: ignore[index, operator]
    with pytest.raises(StateError, match="was learned for model Sequential"):
        load_checked(tmp_path / "probe.safetensors", wrapped(network), task)


def test_every_defence_is_told_apart() -> None:
    assert set(DEFENCES) >= TEXTS
