"""What every defence promises, whatever it does."""

import inspect
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medrobust.data.task import Dataset, Task
from medrobust.defences import DEFENCES, make_defence, variant_of
from medrobust.defences.adaptation import merged
from medrobust.defences.defence import Defence
from medrobust.defences.state import check_header, header_of, load_state, save_state
from medrobust.errors import ConfigError
from medrobust.learning.checkpoint import Checkpoint
from medrobust.learning.loop import Session
from medrobust.learning.workers import Workers
from medrobust.models.clip import Clip
from medrobust.models.hooks import has_hooks
from medrobust.models.prompting import PromptedVision
from medrobust.seeds import stream
from medrobust.types import Classifier, State

FEW: dict[str, Any] = {"shots": 2, "epochs": 2, "batch": 4, "words": 3}
DISTILL: dict[str, Any] = {"steps": 2, "batch": 4, "rank": 2}
HARD: dict[str, Any] = {"epochs": 1, "batch": 8, "attack_steps": 1}
HEADS: dict[str, Any] = {"epochs": 2, "batch": 12}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "zero-shot": ("zero-shot", {}),
    "coop": ("coop", FEW),
    "promptsmooth few-shot": ("promptsmooth", FEW),
    "promptsmooth zero-shot": ("promptsmooth", {"mode": "zero-shot", "draws": 10}),
    "promptsmooth combined": ("promptsmooth", FEW | {"mode": "combined", "draws": 10}),
    "promptsmooth++ few-shot": ("promptsmooth++", FEW | {"tokens": 2}),
    "promptsmooth++ zero-shot": ("promptsmooth++", {"mode": "zero-shot", "draws": 10, "rank": 2}),
    "promptsmooth++ combined": ("promptsmooth++", FEW | {"mode": "combined", "draws": 10, "tokens": 2, "rank": 2}),
    "pool": ("pool", {"images": 8, "steps": 2, "batch": 4, "draws": 2}),
    "vote": ("vote", {}),
    "vote by mean": ("vote", {"rule": "mean"}),
    "distill lora": ("distill", DISTILL),
    "distill norms": ("distill", DISTILL | {"part": "norms"}),
    "distill all": ("distill", DISTILL | {"part": "all"}),
    "distill feature": ("distill", DISTILL | {"part": "feature"}),
    "tecoa": ("tecoa", HARD | {"lr": 1e-3}),
    "tecoa last block": ("tecoa", HARD | {"lr": 1e-3, "blocks": 1, "interpolation": 0.5}),
    "tecoa visual prompts": ("tecoa", HARD | {"mode": "visual-prompts", "lr": 1.0}),
    "tecoa unlabelled": ("tecoa", HARD | {"lr": 1e-3, "unlabelled": True}),
    "fare": ("fare", HARD),
    "fare visual prompts": ("fare", HARD | {"mode": "visual-prompts", "border": 0}),
    "pmg-aft": ("pmg-aft", HARD | {"lr": 1e-3}),
    "apt": ("apt", HARD | {"words": 3}),
    "capt": ("capt", HARD),
    "capt apart": ("capt", HARD | {"coupling": "none", "depth": 1, "balance": 0.5}),
    "linear-probe": ("linear-probe", HEADS),
    "linear-probe unit": ("linear-probe", HEADS | {"unit": True, "augment": True}),
    "mlp-probe": ("mlp-probe", HEADS | {"hidden": 6}),
    "full-fine-tune": ("full-fine-tune", HEADS),
    "nmtune": ("nmtune", HEADS),
    "ran": ("ran", HEADS | {"attack_steps": 1}),
    "undefended": ("undefended", {}),
    "ran unit": ("ran", HEADS | {"attack_steps": 1, "unit": True}),
}
TOWER_TUNED = {"promptsmooth++ zero-shot", "promptsmooth++ combined"}
TUNED = {"promptsmooth zero-shot", "promptsmooth combined"} | TOWER_TUNED
PROMPTED = {"promptsmooth++ few-shot", "promptsmooth++ combined"}
LEARN_NOTHING = {
    "zero-shot",
    "promptsmooth zero-shot",
    "promptsmooth++ zero-shot",
    "vote",
    "vote by mean",
    "undefended",
}
UNLABELLED = LEARN_NOTHING | {"tecoa unlabelled"}
every = pytest.mark.parametrize("case", CASES)
Fit = Callable[..., State]


def defence_of(case: str) -> Defence:
    name, settings = CASES[case]
    return make_defence(name, settings)


@pytest.fixture(scope="module")
def fitted(tiny: Clip, dataset: Dataset) -> Callable[[str], State]:
    """The state of a case, learned once."""
    kept: dict[str, State] = {}

    def fit(case: str) -> State:
        if case not in kept:
            kept[case] = defence_of(case).fit(tiny, dataset, generator=stream(0, "fit"))
        return kept[case]

    return fit


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def logits_of(classifier: Classifier, dataset: Dataset) -> torch.Tensor:
    with torch.no_grad():
        return classifier(dataset.images(range(5)))


def test_every_defence_has_a_case() -> None:
    assert {name for name, _ in CASES.values()} == set(DEFENCES)
    for one in ("promptsmooth", "promptsmooth++"):
        modes = {settings.get("mode", "few-shot") for name, settings in CASES.values() if name == one}
        assert modes == {"few-shot", "zero-shot", "combined"}


@every
def test_fitting_is_deterministic_for_a_seed(case: str, tiny: Clip, dataset: Dataset, fitted: Fit) -> None:
    torch.manual_seed(99)
    again = defence_of(case).fit(tiny, dataset, generator=stream(0, "fit"))
    assert same(again, fitted(case))
    other = defence_of(case).fit(tiny, dataset, generator=stream(1, "fit"))
    assert same(other, again) == (case in LEARN_NOTHING)
    assert (not again) == (case in LEARN_NOTHING)
    assert not any(value.requires_grad for value in again.values())


@every
def test_a_state_on_disk_makes_the_same_classifier(
    case: str, tiny: Clip, dataset: Dataset, fitted: Fit, tmp_path: Path
) -> None:
    path, defence = tmp_path / "state.safetensors", defence_of(case)
    header = header_of(tiny, dataset.task, CASES[case][0], defence.settings, data="colours", base="", seed=0)
    save_state(path, fitted(case), header)
    state, found = load_state(path)
    assert same(state, fitted(case))
    check_header(found, tiny, dataset.task, path=path)
    assert make_defence(found.defence, found.settings).settings == defence.settings
    expected = logits_of(defence.apply(tiny, dataset.task, fitted(case)), dataset)
    assert torch.equal(logits_of(defence.apply(tiny, dataset.task, state), dataset), expected)


@every
def test_logits_are_numbers_one_for_each_class(case: str, tiny: Clip, dataset: Dataset, fitted: Fit) -> None:
    found = logits_of(defence_of(case).apply(tiny, dataset.task, fitted(case)), dataset)
    assert found.shape == (5, 3)
    assert found.isfinite().all()
    assert found.std(dim=1).min() > 0


@every
def test_the_gradient_reaches_the_pixels(case: str, tiny: Clip, dataset: Dataset, fitted: Fit) -> None:
    images = dataset.images(range(3)).requires_grad_(True)
    logits = defence_of(case).apply(tiny, dataset.task, fitted(case))(images)
    logits.log_softmax(dim=1)[:, 0].sum().backward()
    assert images.grad is not None
    assert (images.grad.flatten(1).abs().sum(dim=1) > 0).all()


@every
def test_the_model_stays_as_it_was(case: str, tiny: Clip, dataset: Dataset) -> None:
    parts = {"vision": tiny.vision, "text": tiny.text, "projection": tiny.text_projection}
    before = {name: deepcopy(part.state_dict()) for name, part in parts.items()}
    logits_of(
        defence_of(case).apply(tiny, dataset.task, defence_of(case).fit(tiny, dataset, generator=stream(2, "fit"))),
        dataset,
    )
    for name, part in parts.items():
        assert same(part.state_dict(), before[name])
        assert not part.training
        assert not any(p.requires_grad or p.grad is not None for p in part.parameters())
        assert not any(has_hooks(module) for module in part.modules())


@every
def test_the_scope_is_told_truly(case: str) -> None:
    defence = defence_of(case)
    assert defence.scope == ("tuned on input" if case in TUNED else "model")
    assert (defence.tune is not None) == (case in TUNED)


@pytest.mark.parametrize("case", sorted(TUNED))
def test_tuning_changes_one_part_for_this_image_alone_and_sees_no_label(
    case: str, tiny: Clip, dataset: Dataset, fitted: Fit
) -> None:
    defence = defence_of(case)
    classifier = defence.apply(tiny, dataset.task, fitted(case))
    before = logits_of(classifier, dataset)
    assert defence.tune is not None
    assert list(inspect.signature(defence.tune).parameters) == ["classifier", "image", "sigma", "generator"]
    tuned = defence.tune(classifier, dataset.read(0), sigma=0.25, generator=stream(0, "tune"))
    assert (tuned.encode == classifier.encode) == (case not in TOWER_TUNED)
    assert (tuned.head is classifier.head) == (case in TOWER_TUNED)
    assert (classifier.scope, tuned.scope) == ("model", "tuned on input")
    assert not torch.equal(logits_of(tuned, dataset), before)
    assert logits_of(tuned, dataset).isfinite().all()
    assert torch.equal(logits_of(classifier, dataset), before)


@every
def test_labels_are_read_by_those_alone_that_say_so(case: str, tiny: Clip, dataset: Dataset, fitted: Fit) -> None:
    turned = replace(dataset, targets=tuple((label + 1) % 3 for label in dataset.targets))
    found = defence_of(case).fit(tiny, turned, generator=stream(0, "fit"))
    says = defence_of(case).learns_from
    assert same(found, fitted(case)) == (says != "labels")
    assert (says == "nothing") == (case in LEARN_NOTHING)
    assert says != "labels" or case not in UNLABELLED


@pytest.mark.parametrize(
    "above",
    ["zero-shot", "coop", "promptsmooth zero-shot", "promptsmooth++ zero-shot", "pool", "vote", "distill feature",
     "linear-probe", "ran"],
)  # fmt: skip
def test_a_prompt_stands_on_a_tower_that_another_defence_taught(
    above: str, tiny: Clip, dataset: Dataset, fitted: Fit
) -> None:
    tower = fitted("distill all")
    both = defence_of(above).apply(tiny, dataset.task, tower | fitted(above))
    alone = defence_of(above).apply(tiny, dataset.task, fitted(above))
    assert both.encode == defence_of("distill all").apply(tiny, dataset.task, tower).encode
    assert not torch.equal(logits_of(both, dataset), logits_of(alone, dataset))


def test_defences_of_one_tower_share_its_encoder(tiny: Clip, task: Task, fitted: Fit) -> None:
    own = {case for case in CASES if defence_of(case).apply(tiny, task, fitted(case)).encode == tiny.encode_image}
    assert own == {case for case in CASES if not defence_of(case).changes & {"vision", "vision prompts"}}
    assert set(CASES) - own >= PROMPTED


@every
def test_a_defence_says_truly_what_it_changes(case: str, tiny: Clip, dataset: Dataset, fitted: Fit) -> None:
    state = fitted(case)
    tower = defence_of(case).apply(tiny, dataset.task, state).encode.tower()
    prompted = isinstance(tower, PromptedVision)
    weights = dict((tower.vision if prompted else tower).named_parameters())
    changed = {name for name, own in tiny.vision.named_parameters() if not torch.equal(weights[name], own)}
    inputs = {key for key in state if key in ("context", "deep_context")}
    tower_keys = {key for key in state if key.startswith(("weight.", "lora.", "prompt."))}
    found = {
        "vision": bool(changed),
        "vision prompts": prompted and any(value is not None for value in (tower.border, tower.tokens, tower.deep)),
        "text prompts": bool(inputs),
        "head": bool(set(state) - inputs - tower_keys),
    }
    assert defence_of(case).changes == {name for name, there in found.items() if there}


def test_what_depends_on_the_settings_is_known_from_them() -> None:
    assert make_defence("distill", {"part": "feature"}).changes == {"head"}
    assert make_defence("promptsmooth", {"mode": "zero-shot"}).learns_from == "nothing"
    assert (make_defence("fare").learns_from, make_defence("fare", {"shots": 2}).learns_from) == (
        "images",
        "labels",
    )  # few of each
    assert {name for name in DEFENCES if make_defence(name).class_bound} == {
        "linear-probe", "mlp-probe", "full-fine-tune", "nmtune", "ran"
    }  # fmt: skip


@pytest.mark.parametrize("case", sorted(set(CASES) - LEARN_NOTHING))
def test_a_training_cut_off_goes_on_to_the_same_state(
    case: str, tiny: Clip, dataset: Dataset, fitted: Fit, tmp_path: Path
) -> None:
    kept = Checkpoint(tmp_path / "half.safetensors", {"case": case}, seconds=0.0)
    steps: list[int] = []

    def cut_off(step: int, total: int) -> None:
        steps.append(step)
        if step == total and steps.count(total) == 1:  # the last step is done, and not yet kept
            raise KeyboardInterrupt

    def fit() -> State:
        return defence_of(case).fit(
            tiny, dataset, generator=stream(0, "fit"), session=Session(cut_off, checkpoint=kept)
        )

    with pytest.raises(KeyboardInterrupt):
        fit()
    last = steps[-1]
    assert same(fit(), fitted(case))
    assert steps[last:] == [last]


@every
def test_what_one_process_learns_refuses_others_and_the_rest_learns_its_share(
    case: str, tiny: Clip, dataset: Dataset
) -> None:
    name = CASES[case][0]
    two = Session(workers=Workers(0, 2))
    if case in LEARN_NOTHING:
        assert defence_of(case).fit(tiny, dataset, generator=stream(0, "fit"), session=two) == {}
        return
    if name in ("tecoa", "fare", "pmg-aft", "apt", "capt"):  # which ask the other process, see test_workers
        return
    told = "a head is" if defence_of(case).class_bound else f"{re.escape(name)} is"
    with pytest.raises(ConfigError, match=f"^{told} learned by one process"):
        defence_of(case).fit(tiny, dataset, generator=stream(0, "fit"), session=two)


@pytest.mark.parametrize("above", ["promptsmooth++ few-shot", "capt", "tecoa visual prompts", "fare visual prompts"])
def test_visual_prompts_are_learned_on_a_tower_that_another_defence_taught(
    above: str, tiny: Clip, dataset: Dataset, fitted: Fit
) -> None:
    tower = fitted("distill all")
    taught = merged(tiny, tower)
    learned = defence_of(above).fit(taught, dataset, generator=stream(0, "fit"))
    both = defence_of(above).apply(tiny, dataset.task, tower | learned)
    torch.testing.assert_close(
        logits_of(both, dataset), logits_of(defence_of(above).apply(taught, dataset.task, learned), dataset)
    )
    assert not torch.equal(
        logits_of(both, dataset), logits_of(defence_of(above).apply(tiny, dataset.task, learned), dataset)
    )


def test_the_setting_that_names_a_variant() -> None:
    for name, entry in DEFENCES.items():
        assert entry.variant in ("", *entry.settings.model_fields)
        assert variant_of(name, {}) == {}
    assert variant_of("tecoa", {"mode": "visual-prompts", "lr": 1.0}) == {"mode": "visual-prompts"}
    assert variant_of("coop", {"mode": "combined"}) == variant_of("nothing", {"mode": "combined"}) == {}


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        (
            "promtsmooth",
            {},
            r"^no defence 'promtsmooth' \(did you mean 'promptsmooth'\?\); there are zero-shot, coop, ",
        ),
        ("coop", {"epoch": 3}, r"^coop has no setting 'epoch' \(did you mean 'epochs'\?\); it has shots, words, "),
        ("zero-shot", {"lr": 3}, r"^zero-shot has no setting 'lr'; it has none$"),
        ("pool", {"steps": 0}, r"^pool: steps = 0: input should be greater than or equal to 1$"),
        ("promptsmooth", {"mode": "one-shot"}, r"^promptsmooth: mode = 'one-shot': input should be 'few-shot', "),
    ],
)
def test_what_is_unknown_or_out_of_range_is_refused_with_the_nearest(name: str, settings: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make_defence(name, settings)


@pytest.mark.parametrize("name", DEFENCES)
def test_a_defence_without_settings_has_the_papers(name: str) -> None:
    assert make_defence(name).settings == DEFENCES[name].settings()


def test_the_papers_numbers() -> None:
    few = make_defence("promptsmooth").settings
    assert (few.shots, few.words, few.epochs, few.batch, few.lr) == (16, 5, 50, 32, 0.002)
    assert few.sigmas == (0.25, 0.5, 0.75, 1.0)
    assert (few.draws, few.tune_lr, few.tune_steps, few.clean_fraction) == (100, 5e-3, 1, 0)
