"""Changes of a vision tower, kept apart from it until they are merged: weights, whole or low-rank, and prompts.

Reference: Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022. Written here because a merged
tower must stay what it was (same module, same forward), so that the same code encodes, certifies and attacks it.
"""

import copy
import hashlib
from threading import Lock
from typing import Literal
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor, nn

from medrobust.errors import StateError
from medrobust.models.prompting import HasTokens, PromptedVision
from medrobust.types import State, VisionLanguageModel

Part = Literal["lora", "attention", "norms", "blocks", "all"]
_QUERIES_AND_VALUES = {"q_proj", "v_proj", "query", "value"}  # what the families call them
Merged = WeakValueDictionary[str, nn.Module]  # vision towers by the digest of their changes
_in_use: WeakKeyDictionary[VisionLanguageModel, Merged] = WeakKeyDictionary()
_looking_up = Lock()


def starting_state(
    vision: nn.Module, part: Part, *, rank: int = 4, blocks: int = 0, generator: torch.Generator
) -> State:
    """Tensors that leave the tower unchanged as they are: `lora.NAME.a|b`, or `weight.NAME` copies.

    `lora`: rank-`rank` deltas on every linear layer; a ~ N(0, 1/inputs), b = 0. `attention`: the same on queries and
    values alone. `norms`: LayerNorms and all biases. `blocks`: the last so many layers and what follows them. Raises
    StateError where there are not so many, or no queries and values.
    """
    if part in ("lora", "attention"):
        return _low_rank(vision, part, rank, generator)
    chosen = {name for name, _ in vision.named_parameters()}
    if part == "norms":
        norms = {name for name, layer in vision.named_modules() if isinstance(layer, nn.LayerNorm)}
        chosen = {name for name in chosen if name.endswith("bias") or name.rpartition(".")[0] in norms}
    if part == "blocks":
        chosen = _from_block(vision, blocks)
    return {f"weight.{n}": p.detach().float().clone() for n, p in vision.named_parameters() if n in chosen}


def _low_rank(vision: nn.Module, part: Part, rank: int, generator: torch.Generator) -> State:
    state: State = {}
    for name, layer in vision.named_modules():
        wanted = part == "lora" or name.rpartition(".")[2] in _QUERIES_AND_VALUES
        if wanted and isinstance(layer, nn.Linear):
            outputs, inputs = layer.weight.shape
            state[f"lora.{name}.a"] = torch.randn(rank, inputs, generator=generator) / inputs**0.5
            state[f"lora.{name}.b"] = torch.zeros(outputs, rank)
    if not state:
        raise StateError(
            f"the vision tower ({type(vision).__name__}) has no layers of its own for queries and values, and these "
            "are what low-rank deltas are to change; take a defence that learns a text prompt"
        )
    return state


def _from_block(vision: nn.Module, blocks: int) -> set[str]:
    """Names of the weights from the `blocks`-th last layer to the output, in the order of the modules."""
    layers = vision.layers if isinstance(vision, HasTokens) else ()
    if not 1 <= blocks <= len(layers):
        raise StateError(f"the last {blocks} blocks are to be learned, the vision tower has {len(layers)}")
    first = next(iter(layers[-blocks].parameters()))
    named = list(vision.named_parameters())
    start = next(number for number, (_, weight) in enumerate(named) if weight is first)
    return {name for name, _ in named[start:]}


def changed_weights(vision: nn.Module, state: State) -> dict[str, Tensor]:
    """The tower's weights that a state changes, by name; differentiable with respect to the state.

    Raises StateError where the state names a layer that the tower does not have.
    """
    own = dict(vision.named_parameters())
    changed = {key.removeprefix("weight."): value for key, value in state.items() if key.startswith("weight.")}
    for key, low in state.items():
        if key.startswith("lora.") and key.endswith(".a"):
            layer = key.removeprefix("lora.").removesuffix(".a")
            weight = own.get(f"{layer}.weight")
            if weight is None:
                raise StateError(f"the state changes layer {layer}, which this vision tower does not have")
            changed[f"{layer}.weight"] = weight + state[f"lora.{layer}.b"] @ low
    unknown = sorted(set(changed) - set(own))
    if unknown:
        raise StateError(f"the state changes {unknown[0]}, which this vision tower does not have")
    return changed


def merged(model: VisionLanguageModel, state: State) -> VisionLanguageModel:
    """The model with the changed weights and the prompts of a state in its vision tower; itself where there are none.

    Equal changes give the same vision tower, so that classifiers built on it share one pass over the noise. It lives as
    long as somebody uses it: the memory of this function holds nothing alive, however many states a process has seen.
    """
    changes = vision_part(state)
    if not changes:
        return model
    name_of_changes = digest(changes)
    with _looking_up:
        known = _in_use.setdefault(model, WeakValueDictionary())
        found = known.get(name_of_changes)
    if found is None:
        made = changed(model, changes).vision
        with _looking_up:  # another thread may have made it in the meantime
            found = known.setdefault(name_of_changes, made)
    return model.with_vision(found)


def changed(model: VisionLanguageModel, state: State) -> VisionLanguageModel:
    """As `merged`, but made anew and kept by nobody: for changes that serve one image."""
    return model.with_vision(_changed(model.vision, on(model.device, vision_part(state))))


@torch.no_grad()
def _changed(vision: nn.Module, changes: State) -> nn.Module:
    weights = changed_weights(vision, changes)
    if weights:
        vision = copy.deepcopy(vision)
        own = dict(vision.named_parameters())
        for name, value in weights.items():
            own[name].copy_(value)
    prompts = visual_prompts(changes)
    return PromptedVision(vision, **prompts) if prompts else vision


def visual_prompts(state: State) -> State:
    """The part of a state that a `PromptedVision` takes, by the names that it has there."""
    return {key.removeprefix("prompt."): value for key, value in state.items() if key.startswith("prompt.")}


def interpolated_weights(vision: nn.Module, state: State, share: float) -> State:
    """The state with its weights at (1 - share) * the tower's own + share * the state's; the rest as it is.

    References: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022 (weight interpolation).
    """
    if share == 1:
        return state
    own = {f"weight.{name}": weight for name, weight in vision.named_parameters()}
    return {
        key: torch.lerp(own[key].float().cpu(), value.float().cpu(), share) if key in own else value
        for key, value in state.items()
    }


def vision_part(state: State) -> State:
    """The part of a state that changes the vision tower; another defence may be learned on top of it."""
    return {key: value for key, value in state.items() if key.startswith(("lora.", "weight.", "prompt."))}


def on(device: torch.device, state: State) -> State:
    """The state on another device."""
    return {key: value.to(device) for key, value in state.items()}


def digest(state: State) -> str:
    """A hash of all that a state holds."""
    found = hashlib.sha256()
    for key, value in sorted(state.items()):
        found.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
