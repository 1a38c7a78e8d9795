"""The parts of a CLIP vision tower or a ViT of transformers, read only where they are all that the tower computes.

A module of an unknown type, a hook, a patched forward or a weight that is not a plain tensor is refused by name.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from medrobust.models.hooks import has_hooks
from medrobust.models.towers import TokenTower
from medrobust.types.vit import Activation, BlockParts, LinearParts, NormParts, NotAViT, ViT

_CLIP = "transformers.models.clip.modeling_clip"
_VIT = "transformers.models.vit.modeling_vit"
_TOWERS = {_CLIP: ("CLIPVisionModel", "CLIPVisionTransformer"), _VIT: ("ViTModel",)}  # CLIP's: new and old name
_INSIDE = {
    _CLIP: ("CLIPVisionEmbeddings", "CLIPEncoder", "CLIPEncoderLayer", "CLIPAttention", "CLIPMLP"),
    _VIT: ("ViTEmbeddings", "ViTPatchEmbeddings", "ViTLayer", "ViTAttention", "ViTMLP"),
}
_PLAIN = (nn.Linear, nn.LayerNorm, nn.Conv2d, nn.Embedding, nn.ModuleList, nn.Dropout)
_ACTIVATIONS: dict[str, Activation] = {
    "GELUActivation": "gelu",
    "QuickGELUActivation": "quick_gelu",
    "GELUTanh": "gelu_tanh",
    "NewGELUActivation": "gelu_tanh",
}
_DROPOUT = ("dropout", "attention_dropout", "p")  # what modules call the share that they drop


def parts_of(vision: nn.Module) -> ViT:
    """The parts of a vision tower of this package; raises NotAViT for any other module, and see `read_vit`."""
    if type(vision) is not TokenTower:  # a class of its own may compute something else
        raise NotAViT(f"the image encoder is a {type(vision).__name__}, not a CLIP tower as it was loaded")
    return read_vit(vision, vision.tower, vision.projection, vision.mean, vision.std)


def read_vit(vision: nn.Module, tower: Any, projection: Any, mean: Tensor, std: Tensor) -> ViT:
    """The parts of `vision`, which runs `tower` and then `projection` on normalised images; weights are not copied.

    Raises NotAViT, saying which part is not understood.
    """
    if not _is_one(tower, _TOWERS):
        raise NotAViT(f"the vision tower holds a {type(tower).__name__}, not a CLIP vision transformer of transformers")
    for name, module in vision.named_modules():
        _check(name, module, own=module is vision or module is tower)
    clip = type(tower).__module__ == _CLIP
    layers = list(tower.encoder.layers if clip else tower.layers)
    activations = {_activation(layer.mlp.activation_fn) for layer in layers}
    if len(activations) != 1:
        raise NotAViT(f"the blocks of the vision tower have {len(activations)} activations, the fast path knows one")
    patch, class_token, positions, size = _embeddings(tower.embeddings, clip=clip)
    return ViT(
        patch=_patch_weight(patch),
        patch_bias=patch.bias,
        class_token=class_token,
        positions=positions,
        pre_norm=_norm(tower.pre_layrnorm) if clip else None,  # transformers' own spelling
        blocks=tuple(_clip_block(layer) if clip else _vit_block(layer) for layer in layers),
        post_norm=_norm(tower.post_layernorm if clip else tower.layernorm),
        projection=_linear(projection),
        mean=mean.flatten(),
        std=std.flatten(),
        heads=layers[0].self_attn.num_heads if clip else layers[0].attention.num_attention_heads,
        activation=activations.pop(),
        size=size,
    )


def _embeddings(embeddings: Any, *, clip: bool) -> tuple[nn.Conv2d, Tensor, Tensor, int]:
    if clip:
        positions = embeddings.position_embedding.weight
        return embeddings.patch_embedding, embeddings.class_embedding, positions, embeddings.image_size
    height, width = embeddings.image_size
    if height != width or embeddings.mask_token is not None:
        raise NotAViT("the vision tower takes no square images, or masks some of their patches")
    patch = embeddings.patch_embeddings.projection
    return patch, embeddings.cls_token[0, 0], embeddings.position_embeddings[0], height


def _is_one(module: nn.Module, known: Mapping[str, tuple[str, ...]]) -> bool:
    return type(module).__name__ in known.get(type(module).__module__, ())


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ == "transformers.activations" and type(module).__name__ in _ACTIVATIONS


def _check(name: str, module: nn.Module, *, own: bool) -> None:
    if not (own or type(module) in _PLAIN or _is_one(module, _INSIDE) or _is_activation(module)):
        raise NotAViT(f"{name} of the vision tower is a {type(module).__name__}, which the fast path does not know")
    if has_hooks(module) or "forward" in vars(module):
        raise NotAViT(f"{name or 'the vision tower'} has a hook, which the fast path would not run")
    if module.training and any(vars(module).get(share) for share in _DROPOUT):
        raise NotAViT(f"{name} of the vision tower is in training mode with dropout, which the fast path leaves out")
    for key, weight in module.named_parameters(recurse=False):
        if type(weight) not in (nn.Parameter, Tensor) or not weight.is_floating_point():
            raise NotAViT(
                f"{name}.{key} of the vision tower is no plain floating-point tensor, perhaps it is quantised"
            )


def _activation(module: nn.Module) -> Activation:
    return _ACTIVATIONS[type(module).__name__]


def _patch_weight(layer: nn.Conv2d) -> Tensor:
    side = layer.kernel_size[0]
    if layer.weight.shape[1:] != (3, side, side) or layer.stride != (side, side) or layer.padding not in ((0, 0), 0):
        raise NotAViT("the patches of the vision tower overlap, are padded, not square or not in three colours")
    return layer.weight


def _clip_block(layer: Any) -> BlockParts:
    return _block(layer.self_attn, layer.self_attn.out_proj, layer.layer_norm1, layer.layer_norm2, layer.mlp)


def _vit_block(layer: Any) -> BlockParts:
    return _block(layer.attention, layer.attention.o_proj, layer.layernorm_before, layer.layernorm_after, layer.mlp)


def _block(attention: Any, out: Any, norm1: Any, norm2: Any, mlp: Any) -> BlockParts:
    return BlockParts(
        norm1=_norm(norm1),
        query=_linear(attention.q_proj),
        key=_linear(attention.k_proj),
        value=_linear(attention.v_proj),
        out=_linear(out),
        norm2=_norm(norm2),
        fc1=_linear(mlp.fc1),
        fc2=_linear(mlp.fc2),
    )


def _norm(layer: Any) -> NormParts:
    return NormParts(layer.weight, layer.bias, layer.eps)


def _linear(layer: Any) -> LinearParts:
    return LinearParts(layer.weight, layer.bias)
