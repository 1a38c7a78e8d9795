"""Small changes of a vision tower, kept apart from it until they are merged: low-rank deltas, norm layers, all.

Reference: Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022. Written here because a merged
tower must stay what it was (same module, same forward), so that the same code encodes, certifies and attacks it.
"""

import copy
import hashlib
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from medrobust.errors import StateError
from medrobust.types import State, VisionLanguageModel

Part = Literal["lora", "norms", "all"]
_merged: WeakKeyDictionary[VisionLanguageModel, dict[str, VisionLanguageModel]] = WeakKeyDictionary()


def starting_state(vision: nn.Module, part: Part, *, rank: int, generator: torch.Generator) -> State:
    """Tensors that leave the tower unchanged as they are: `lora.NAME.a|b`, or `weight.NAME` copies.

    `lora`: rank-`rank` deltas on every linear layer; a ~ N(0, 1/inputs), b = 0. `norms`: LayerNorms and all biases.
    """
    if part == "lora":
        state: State = {}
        for name, layer in vision.named_modules():
            if isinstance(layer, nn.Linear):
                outputs, inputs = layer.weight.shape
                state[f"lora.{name}.a"] = torch.randn(rank, inputs, generator=generator) / inputs**0.5
                state[f"lora.{name}.b"] = torch.zeros(outputs, rank)
        return state
    chosen = {name for name, _ in vision.named_parameters()}
    if part == "norms":
        norms = {name for name, layer in vision.named_modules() if isinstance(layer, nn.LayerNorm)}
        chosen = {name for name in chosen if name.endswith("bias") or name.rpartition(".")[0] in norms}
    return {f"weight.{n}": p.detach().float().clone() for n, p in vision.named_parameters() if n in chosen}


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
    """The model with the changes in its vision weights; the model itself where the state changes none.

    Equal changes give the same object, so that classifiers built on it share one pass over the noise.
    """
    changes = vision_part(state)
    if not changes:
        return model
    name_of_changes = digest(changes)
    kept = _merged.setdefault(model, {})
    if name_of_changes not in kept:
        with torch.no_grad():
            vision = copy.deepcopy(model.vision)
            own = dict(vision.named_parameters())
            for name, value in changed_weights(model.vision, on(model.device, changes)).items():
                own[name].copy_(value)
        kept[name_of_changes] = model.with_vision(vision)
    return kept[name_of_changes]


def vision_part(state: State) -> State:
    """What of a state changes vision weights; another defence may be learned on top of it."""
    return {key: value for key, value in state.items() if key.startswith(("lora.", "weight."))}


def on(device: torch.device, state: State) -> State:
    """The state on another device."""
    return {key: value.to(device) for key, value in state.items()}


def digest(state: State) -> str:
    """A hash of all that a state holds."""
    found = hashlib.sha256()
    for key, value in sorted(state.items()):
        found.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
