"""Changes of a tower: nothing at the start, the same merged as applied on the fly, one object for equal changes."""

import copy
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
import torch
from torch import nn
from torch.func import functional_call

from medrobust.defences.adaptation import changed_weights, merged, starting_state, vision_part
from medrobust.errors import StateError
from medrobust.models.clip import Clip
from medrobust.seeds import stream
from medrobust.types import State

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
PARTS = pytest.mark.parametrize("part", ["lora", "norms", "all"])


def moved(model: Clip, part: str, seed: int = 0) -> State:
    """A state far enough from the start that an error shows."""
    generator = stream(seed, "moved")
    state = starting_state(model.vision, part, rank=2, generator=generator)  # type: ignore[arg-type]
    return {key: value + 0.1 * torch.randn(value.shape, generator=generator) for key, value in state.items()}


@PARTS
def test_a_state_at_its_start_changes_nothing(tiny: Clip, part: str) -> None:
    state = starting_state(tiny.vision, part, rank=2, generator=stream(0, "fit"))  # type: ignore[arg-type]
    assert state
    assert torch.equal(merged(tiny, state).encode_image(IMAGES), tiny.encode_image(IMAGES))


@PARTS
def test_merged_is_what_applied_on_the_fly_gives(tiny: Clip, part: str) -> None:
    state = moved(tiny, part)
    expected = functional_call(tiny.vision, changed_weights(tiny.vision, state), (IMAGES,))
    found = merged(tiny, state).encode_image(IMAGES)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert not torch.allclose(found, tiny.encode_image(IMAGES), atol=1e-2)


def test_low_rank_deltas_are_the_product_added_to_the_weight(tiny: Clip) -> None:
    state, own = moved(tiny, "lora"), dict(tiny.vision.named_parameters())
    found = changed_weights(tiny.vision, state)
    linear = [name for name, layer in tiny.vision.named_modules() if isinstance(layer, nn.Linear)]
    assert found.keys() == {f"{name}.weight" for name in linear}
    for name in linear:
        a, b = state[f"lora.{name}.a"], state[f"lora.{name}.b"]
        assert (a.shape[0], b.shape[1]) == (2, 2)
        layer = nn.Linear(a.shape[1], b.shape[0], bias=False)
        layer.weight.data = own[f"{name}.weight"].clone()
        inputs = torch.randn(5, a.shape[1])
        expected = layer(inputs) + inputs @ a.T @ b.T
        torch.testing.assert_close(inputs @ found[f"{name}.weight"].T, expected, atol=1e-5, rtol=1e-5)


def test_norms_are_layer_norms_and_biases_alone(tiny: Clip) -> None:
    norms = starting_state(tiny.vision, "norms", rank=2, generator=stream(0, "fit"))
    everything = starting_state(tiny.vision, "all", rank=2, generator=stream(0, "fit"))
    assert all(value.ndim == 1 for value in norms.values())
    assert {key for key, value in everything.items() if value.ndim == 1 and "class_embedding" not in key} == set(norms)
    assert everything.keys() == {f"weight.{name}" for name, _ in tiny.vision.named_parameters()}


def test_equal_states_give_one_tower_and_so_one_encoder(tiny: Clip) -> None:
    state = moved(tiny, "lora")
    one, other = merged(tiny, state), merged(tiny, {key: state[key].clone() for key in reversed(state)})
    assert one.vision is other.vision
    assert one.encode_image == other.encode_image
    assert merged(tiny, state | {"context": torch.ones(2, 32)}).vision is one.vision
    assert merged(tiny, moved(tiny, "lora", seed=1)).vision is not one.vision


def test_a_state_without_vision_changes_gives_the_model_itself(tiny: Clip) -> None:
    assert merged(tiny, {}) is tiny
    assert merged(tiny, {"context": torch.ones(2, 32), "mlp.0.weight": torch.ones(2, 2)}) is tiny


def test_equal_changes_of_other_models_are_other_models(tiny: Clip, taught: Clip) -> None:
    state = moved(tiny, "lora")
    assert merged(tiny, state).vision is not merged(taught, state).vision


@pytest.mark.parametrize("kind", ["lora", "prompt.tokens"])
def test_a_merged_model_is_freed_with_the_last_that_uses_it(tiny: Clip, kind: str) -> None:
    def state(seed: int) -> State:
        return moved(tiny, kind, seed=seed) if kind == "lora" else {kind: torch.full((2, 32), float(seed))}

    used = merged(tiny, state(0)).encode_image
    before = used(IMAGES)
    gone = [weakref.ref(merged(tiny, state(seed)).vision) for seed in range(1, 6)]
    assert [reference() for reference in gone] == [None] * 5
    assert merged(tiny, state(0)).encode_image == used
    assert torch.equal(used(IMAGES), before)
    last = weakref.ref(merged(tiny, state(0)).vision)
    assert last() is not None
    del used
    assert last() is None


def test_a_merged_model_keeps_nothing_of_a_model_that_is_gone(tiny: Clip) -> None:
    base = replace(tiny, name="another name")
    found, gone = merged(base, moved(base, "lora")), weakref.ref(base)
    del base
    assert gone() is None
    assert found.name == "another name"


def test_threads_that_merge_equal_states_get_one_tower(tiny: Clip) -> None:
    state, start = moved(tiny, "all", seed=5), Barrier(4)

    def merge(_number: int) -> object:
        start.wait()
        return merged(tiny, state).vision

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(merge, range(4)))
    assert len({id(one) for one in found}) == 1


def test_merging_leaves_the_model_and_the_state_as_they_were(tiny: Clip) -> None:
    before = copy.deepcopy(tiny.vision.state_dict())
    state = moved(tiny, "all", seed=2)
    kept = {key: value.clone() for key, value in state.items()}
    merged(tiny, state)
    assert all(torch.equal(before[key], value) for key, value in tiny.vision.state_dict().items())
    assert all(torch.equal(kept[key], value) for key, value in state.items())


def test_only_the_vision_part_is_told_apart(tiny: Clip) -> None:
    state = moved(tiny, "lora") | {"weight.x": torch.ones(1)}
    assert vision_part(state | {"context": torch.ones(2, 2), "mlp.0.bias": torch.ones(1)}).keys() == state.keys()


@pytest.mark.parametrize(
    "state",
    [
        {"lora.tower.nothing.a": torch.ones(1, 2), "lora.tower.nothing.b": torch.ones(2, 1)},
        {"weight.tower.nothing": torch.ones(2)},
    ],
)
def test_a_layer_the_tower_does_not_have_is_named(tiny: Clip, state: State) -> None:
    with pytest.raises(StateError, match=r"the state changes .*tower.nothing, which this vision tower does not have"):
        merged(tiny, state)
