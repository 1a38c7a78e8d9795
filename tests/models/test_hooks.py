"""Changes of a module's inputs and outputs: in their block and thread alone, and nothing stays behind."""

import copy
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medrobust.data.task import Dataset
from medrobust.defences.adaptation import on, starting_state
from medrobust.defences.promptsmooth_plus import first_tokens, sharpen_tower
from medrobust.defences.zero_shot import zero_shot
from medrobust.models.clip import Clip
from medrobust.models.hooks import changed_input, changed_output, has_hooks
from medrobust.models.prompting import PromptedVision
from medrobust.seeds import stream
from medrobust.types.vit import NotAViT
from medrobust.vqa.tokens import image_tokens

TEXTS = [f"{name} paint." for name in ("red", "green", "blue", "a photo of green")]


class Doubled(nn.Module):
    def forward(self, numbers: Tensor) -> Tensor:
        return 2 * numbers


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def wrong(calls: Mapping[str, Callable[[], Tensor]], rounds: int) -> dict[str, int]:
    """Results of each call, all repeated at once in threads of their own, that differ from what it gives alone."""
    start = Barrier(len(calls))

    @torch.no_grad()
    def count(call: Callable[[], Tensor], alone: Tensor) -> int:
        start.wait()
        return sum(not torch.equal(call(), alone) for _ in range(rounds))

    with torch.no_grad():
        alone = {name: call() for name, call in calls.items()}
    assert len({tuple(found.flatten().tolist()) for found in alone.values()}) == len(calls)
    with ThreadPoolExecutor(len(calls)) as threads:
        running = {name: threads.submit(count, call, alone[name]) for name, call in calls.items()}
        return {name: task.result() for name, task in running.items()}


@pytest.mark.usefixtures("switching")
def test_threads_that_encode_texts_keep_their_own_contexts(tiny: Clip) -> None:
    one, other = (0.5 * torch.randn(4, 32, generator=stream(seed, "context")) for seed in (0, 1))
    calls = {"one": lambda: tiny.encode_text(TEXTS, one), "other": lambda: tiny.encode_text(TEXTS, other)}
    assert wrong(calls, 150) == {"one": 0, "other": 0}


@pytest.mark.usefixtures("switching")
def test_threads_keep_their_own_deep_contexts_of_any_length_or_none(tiny: Clip) -> None:
    def call(words: int) -> Callable[[], Tensor]:
        context, deep = (torch.randn(*shape, words, 32, generator=stream(words, "context")) for shape in ((), (1,)))
        return lambda: tiny.encode_text(TEXTS, context, deep)

    calls = {"two words": call(2), "five words": call(5), "none": lambda: tiny.encode_text(TEXTS)}
    assert wrong(calls, 150) == dict.fromkeys(calls, 0)


@pytest.mark.usefixtures("switching")
def test_threads_keep_their_own_visual_prompts(tiny: Clip, dataset: Dataset) -> None:
    images = dataset.images([0, 1])

    def call(count: int) -> Callable[[], Tensor]:
        generator = stream(count, "tokens")
        tokens, deep = (torch.randn(*shape, count, 32, generator=generator) for shape in ((), (1,)))
        tower = PromptedVision(tiny.vision, tokens=tokens, deep=deep)
        return lambda: tower(images)

    calls = {"one token": call(1), "three tokens": call(3), "none": lambda: tiny.encode_image(images)}
    assert wrong(calls, 150) == dict.fromkeys(calls, 0)


@pytest.mark.usefixtures("switching")
def test_threads_that_look_into_a_tower_see_their_own_images(tiny: Clip, dataset: Dataset) -> None:
    one, other = dataset.images([0, 1]), dataset.images([2])
    calls = {
        "tokens of two": lambda: image_tokens(tiny, one),
        "tokens of one": lambda: image_tokens(tiny, other),
        "first tokens": lambda: first_tokens(tiny, dataset.images([3]), 2, stream(0, "first")),
        "features": lambda: tiny.encode_image(other),
        "parts": lambda: tiny.encode_image.parts().patch,
    }
    assert wrong(calls, 60) == dict.fromkeys(calls, 0)


@pytest.mark.usefixtures("switching")
def test_a_tower_is_tuned_in_one_thread_and_read_in_another(tiny: Clip, dataset: Dataset) -> None:
    images, head = dataset.images([0, 1]), zero_shot().apply(tiny, dataset.task, {}).head
    start = starting_state(tiny.vision, "attention", generator=stream(0, "start"))

    @torch.enable_grad()
    def tune() -> Tensor:
        tuned = sharpen_tower(tiny.vision, head, images, on(tiny.device, start), lr=0.1, steps=3)
        return torch.cat([value.detach().flatten() for value in tuned.values()])

    calls = {"tune": tune, "read": lambda: tiny.encode_image(images)}
    assert wrong(calls, 40) == {"tune": 0, "read": 0}


def test_changes_nest_the_outer_first() -> None:
    module, ones = Doubled(), torch.ones(2)
    with changed_output(module, lambda found: found + 1), changed_input(module, lambda given: given + 3):
        assert module(ones).tolist() == [9.0, 9.0]  # 2 (1 + 3) + 1
        with changed_output(module, lambda found: 10 * found), changed_input(module, lambda given: 5 * given):
            assert module(ones).tolist() == [410.0, 410.0]  # 10 (2 (5 (1 + 3)) + 1)
        assert module(ones).tolist() == [9.0, 9.0]
    assert module(ones).tolist() == [2.0, 2.0]


def test_a_module_has_one_hook_however_often_it_is_changed() -> None:
    module: Any = Doubled()
    for _ in range(3):
        with changed_output(module, torch.neg), changed_input(module, torch.neg):
            module(torch.ones(1))
        module = copy.deepcopy(module)
    assert (len(module._forward_hooks), len(module._forward_pre_hooks)) == (1, 1)


def test_a_copy_made_in_a_block_is_not_changed_and_can_be_changed_by_itself() -> None:
    module, ones = Doubled(), torch.ones(1)
    with changed_output(module, torch.neg):
        copied = copy.deepcopy(module)
        assert (module(ones), copied(ones)) == (-2, 2)
        with changed_output(copied, lambda found: found + 5):
            assert (module(ones), copied(ones)) == (-2, 7)


def test_a_failure_inside_ends_the_change() -> None:
    module = Doubled()
    with pytest.raises(KeyboardInterrupt), changed_output(module, torch.neg), changed_input(module, torch.neg):
        raise KeyboardInterrupt
    assert module(torch.ones(1)) == 2
    assert not has_hooks(module)


def test_nothing_is_kept_alive_afterwards() -> None:
    module, prompt = Doubled(), torch.ones(3)
    gone = [weakref.ref(module), weakref.ref(prompt)]
    with changed_output(module, prompt.add), changed_input(module, prompt.mul):
        module(torch.ones(3))
    del module, prompt
    assert [reference() for reference in gone] == [None, None]


def test_a_prompted_tower_is_freed_with_its_last_name(tiny: Clip, dataset: Dataset) -> None:
    tower = PromptedVision(tiny.vision, tokens=torch.ones(2, 32), deep=torch.ones(1, 2, 32))
    with torch.no_grad():
        tower(dataset.images([0]))
    gone = weakref.ref(tower)
    del tower
    assert gone() is None


def test_the_parts_of_a_tower_are_read_again_after_a_change_and_refused_during_it(tiny: Clip) -> None:
    before, layer = tiny.encode_image.parts(), tiny.vision.layers[1]  # type: ignore[operator, union-attr, index]
    for change in (changed_output, changed_input):
        with change(layer, torch.neg):
            assert has_hooks(layer)
            with pytest.raises(NotAViT, match=r"tower.encoder.layers.1 has a hook, which the fast path would not run"):
                tiny.encode_image.parts()
        assert not has_hooks(layer)
    assert torch.equal(tiny.encode_image.parts().blocks[1].fc1.weight, before.blocks[1].fc1.weight)
    handle = layer.register_forward_hook(lambda *_: None)
    with pytest.raises(NotAViT, match=r"tower.encoder.layers.1 has a hook"):
        tiny.encode_image.parts()
    handle.remove()
    assert not has_hooks(layer)
