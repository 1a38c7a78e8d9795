"""MedCLIP: a Swin transformer beside Bio_ClinicalBERT, built from `SwinModel` and `BertModel`.

Reference: Wang et al., "MedCLIP: contrastive learning from unpaired medical images and text", EMNLP 2022.
"""

from typing import Any

from torch import Tensor

from medrobust.errors import ModelError
from medrobust.models.bert import PAD, read_bert
from medrobust.models.clip import Clip, ModelSource
from medrobust.models.fill import (
    configured,
    depth,
    filled,
    part_of,
    projection,
    refuse_keys,
    refuse_others,
    shape_of,
    taken,
)
from medrobust.models.inputs import bert_tokenizer
from medrobust.models.texts import Reading
from medrobust.models.towers import SwinTower
from medrobust.types import Canvas, Preprocess

_WHAT = "MedCLIP with a Swin transformer"
_SWIN, _BERT = "vision_model.model.", "text_model.model."
_HEADS = ("vision_model.projection_head.weight", "text_model.projection_head.weight")
MEAN, STD = 0.5862785803043838, 0.27950088968644304  # of grey
SIZE, CONTEXT = 224, 77
_HEAD = 32  # numbers a head in every Swin


def load_medclip(source: ModelSource) -> Clip:
    """Swin's mean over its tokens, BERT's mean over a text's tokens in layers 1, 2 and last, and their projections.

    MedCLIP's own code averages over the padding of shorter texts too; here a text is encoded as if it were alone.
    Raises ModelError for its ResNet variant, and for weights that do not fit, naming them.
    """
    tensors, name = source.weights.tensors, source.name
    if "vision_model.model.conv1.weight" in tensors:
        raise ModelError(f"{name}: this is MedCLIP with a ResNet-50, which is not read; use the one with a Swin (ViT)")
    refuse_others(tensors, (_SWIN, _BERT, *_HEADS, "logit_scale"), name=name, what=_WHAT)
    swin = _swin(source, part_of(tensors, _SWIN))
    bert = read_bert(source, part_of(tensors, _BERT), prefix=_BERT, what=_WHAT, pooler=True)
    dim = shape_of(tensors, _HEADS[0], 2, name=name, what=_WHAT)[0]
    widths = (swin.num_features, bert.config.hidden_size)
    heads = [
        projection(tensors, key, (dim, width), name=name, what=_WHAT, dtype=source.dtype).to(source.device)
        for key, width in zip(_HEADS, widths, strict=True)
    ]
    return Clip(
        name=name,
        sha256=source.weights.sha256,
        licence=source.licence,
        preprocess=Preprocess(
            swin.config.image_size, swin.config.image_size, "bicubic", crop=False, canvas=Canvas(SIZE)
        ),
        logit_scale=float(taken(tensors, "logit_scale", (), name=name, what=_WHAT).exp()),
        context_length=min(CONTEXT, bert.config.max_position_embeddings),
        vision=SwinTower(swin, heads[0], [MEAN] * 3, [STD] * 3).eval().to(source.device),
        text=bert,
        text_projection=heads[1],
        tokenize=bert_tokenizer(source.folder, bert.config.vocab_size, "emilyalsentzer/Bio_ClinicalBERT"),
        reading=Reading(fill=PAD, masked=True, pooled="mean"),
        revision=source.revision,
    )


def _swin(source: ModelSource, tensors: dict[str, Tensor]) -> Any:
    """A Swin whose sizes are read off its weights: widths, depths, window; pictures have 224 pixels."""
    from transformers import SwinConfig, SwinModel

    key = "embeddings.patch_embeddings.projection.weight"
    width, _, _, side = shape_of(tensors, key, 4, name=source.name, what=_WHAT, prefix=_SWIN)
    stages = depth(tensors, "encoder.layers.")
    depths = [depth(tensors, f"encoder.layers.{stage}.blocks.") for stage in range(stages)]
    table = next((value for name, value in tensors.items() if name.endswith("relative_position_bias_table")), None)
    if table is None or not all(depths):
        missing = f"{_SWIN}encoder.layers.0.blocks.0.attention.self.relative_position_bias_table"
        refuse_keys("missing_keys", [missing], name=source.name, what=_WHAT)
    config = configured(
        SwinConfig,
        name=source.name,
        what=_WHAT,
        image_size=SIZE,
        patch_size=side,
        embed_dim=width,
        depths=depths,
        num_heads=[max(1, width * 2**stage // _HEAD) for stage in range(stages)],
        window_size=(round(len(table) ** 0.5) + 1) // 2 if table is not None else 7,
    )
    return filled(SwinModel, config, tensors, name=source.name, what=_WHAT, dtype=source.dtype, prefix=_SWIN)
