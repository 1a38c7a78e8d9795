"""SigLIP and MedSigLIP through transformers.

Reference: Zhai et al., "Sigmoid loss for language image pre-training", ICCV 2023.
"""

from torch import nn

from medrobust.errors import ModelError
from medrobust.models.clip import Clip, ModelSource
from medrobust.models.fill import configured, filled
from medrobust.models.inputs import read_preprocess, siglip_tokenizer
from medrobust.models.texts import Reading
from medrobust.models.towers import TokenTower


def load_siglip(source: ModelSource) -> Clip:
    """A SigLIP from a folder in the format of transformers: config, weights, tokenizer.json, preprocessor_config.

    Its logits are exp(scale) * cosine + bias; the bias is the same for every class and is left out, for it changes no
    softmax over classes and no argmax. Raises ModelError for weights that do not fit, naming them.
    """
    from transformers import SiglipConfig, SiglipModel

    config = configured(SiglipConfig.from_pretrained, source.folder, name=source.name, what="SigLIP")
    preprocess, mean, std = read_preprocess(source.folder, crop=False)
    if preprocess.size != config.vision_config.image_size:
        raise ModelError(
            f"{source.name}: preprocessor_config.json resizes to {preprocess.size} px, the vision tower takes "
            f"{config.vision_config.image_size} px"
        )
    if not getattr(config.vision_config, "vision_use_head", True):
        raise ModelError(f"{source.name}: its vision tower has no pooling head, so it gives no features to compare")
    network = filled(
        SiglipModel, config, source.weights.tensors, name=source.name, what="SigLIP", dtype=source.dtype
    ).to(source.device)
    return Clip(
        name=source.name,
        sha256=source.weights.sha256,
        licence=source.licence,
        preprocess=preprocess,
        logit_scale=float(network.logit_scale.exp()),
        context_length=config.text_config.max_position_embeddings,
        vision=TokenTower(network.vision_model, nn.Identity(), mean, std, pooled="own").eval().to(source.device),
        text=network.text_model,
        text_projection=nn.Identity(),
        tokenize=siglip_tokenizer(source.folder, source.name),
        reading=Reading(start=0, fill=config.text_config.pad_token_id, whole=True),
        revision=source.revision,
    )
