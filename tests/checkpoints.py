"""Small random checkpoints of every family, in the format and by the names of the library that writes the real ones."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
Weights = dict[str, Tensor]
WORDS = [
    "a",
    "an",
    "photo",
    "of",
    "image",
    "that",
    "shows",
    "red",
    "green",
    "blue",
    "paint",
    ".",
    ",",
    "and",
    "lot",
    "it",
]
# one head has 64 numbers, in CLIP's towers and in BERT
CLIP_SIZES = {"width": 128, "layers": 2, "side": 16, "patch": 8, "text_width": 128, "text_layers": 2, "dim": 24}


def random(shapes: Shapes, seed: int = 0) -> Weights:
    """Weights far from the start of a training, so that an error in any of them shows."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for key, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        if key.endswith("bias") or len(shape) < 2:
            found[key] = 0.2 * drawn + (1.0 if len(shape) == 1 and key.endswith("weight") else 0.0)
        else:
            inputs = math.prod(shape[1:]) if "embed" not in key.lower() else 4
            found[key] = 1.5 * drawn / math.sqrt(inputs)
    found |= {key: torch.tensor(2.5) for key in found if key.endswith("logit_scale")}
    return found


def resblock(name: str, width: int) -> Shapes:
    inner = {"attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,)}
    inner |= {"attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,)}
    for norm in ("ln_1", "ln_2"):
        inner |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    inner |= {"mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,)}
    inner |= {"mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,)}
    return {f"{name}.{key}": shape for key, shape in inner.items()}


def openai_shapes(vocabulary: int, sizes: dict[str, int] = CLIP_SIZES) -> Shapes:
    """The state dict of OpenAI's and open_clip's CLIP with a ViT."""
    width, text, dim = sizes["width"], sizes["text_width"], sizes["dim"]
    found: Shapes = {"positional_embedding": (77, text), "text_projection": (text, dim), "logit_scale": ()}
    found |= {"visual.class_embedding": (width,), "visual.proj": (width, dim)}
    found |= {"visual.positional_embedding": ((sizes["side"] // sizes["patch"]) ** 2 + 1, width)}
    found |= {"visual.conv1.weight": (width, 3, sizes["patch"], sizes["patch"])}
    for norm in ("visual.ln_pre", "visual.ln_post", "ln_final"):
        size = text if norm == "ln_final" else width
        found |= {f"{norm}.weight": (size,), f"{norm}.bias": (size,)}
    found |= {"token_embedding.weight": (vocabulary, text)}
    for number in range(sizes["layers"]):
        found |= resblock(f"visual.transformer.resblocks.{number}", width)
    for number in range(sizes["text_layers"]):
        found |= resblock(f"transformer.resblocks.{number}", text)
    return found


def timm_shapes(width: int = 128, layers: int = 2, side: int = 16, patch: int = 8) -> Shapes:
    """timm's VisionTransformer without a head."""
    found: Shapes = {"cls_token": (1, 1, width), "pos_embed": (1, (side // patch) ** 2 + 1, width)}
    found |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    for number in range(layers):
        block: Shapes = {"attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,)}
        block |= {"attn.proj.weight": (width, width), "attn.proj.bias": (width,)}
        for norm in ("norm1", "norm2"):
            block |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
        block |= {"mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,)}
        block |= {"mlp.fc2.weight": (width, 4 * width), "mlp.fc2.bias": (width,)}
        found |= {f"blocks.{number}.{key}": shape for key, shape in block.items()}
    return found | {"norm.weight": (width,), "norm.bias": (width,)}


def bert_shapes(width: int = 128, layers: int = 3, *, pooler: bool) -> Shapes:
    """transformers' BertModel, as it has been since 2019."""
    found: Shapes = {
        "embeddings.word_embeddings.weight": (len(bert_words()), width),
        "embeddings.position_embeddings.weight": (300, width),
        "embeddings.token_type_embeddings.weight": (2, width),
    }
    found |= {"embeddings.LayerNorm.weight": (width,), "embeddings.LayerNorm.bias": (width,)}
    for number in range(layers):
        linear = {f"attention.self.{one}": (width, width) for one in ("query", "key", "value")}
        linear |= {"attention.output.dense": (width, width), "intermediate.dense": (4 * width, width)}
        linear |= {"output.dense": (width, 4 * width)}
        block: Shapes = {
            f"{one}.LayerNorm.{kind}": (width,) for one in ("attention.output", "output") for kind in KINDS
        }
        block |= {f"{key}.weight": shape for key, shape in linear.items()}
        block |= {f"{key}.bias": shape[:1] for key, shape in linear.items()}
        found |= {f"encoder.layer.{number}.{key}": shape for key, shape in block.items()}
    return found | ({"pooler.dense.weight": (width, width), "pooler.dense.bias": (width,)} if pooler else {})


KINDS = ("weight", "bias")


def swin_shapes() -> Shapes:
    """transformers' SwinModel by the names it had until version 5: two stages of 14 x 14 and 7 x 7 tokens."""
    found: Shapes = {"embeddings.patch_embeddings.projection.weight": (32, 3, 16, 16)}
    found |= {"embeddings.patch_embeddings.projection.bias": (32,), "layernorm.weight": (64,), "layernorm.bias": (64,)}
    found |= {"embeddings.norm.weight": (32,), "embeddings.norm.bias": (32,)}
    for stage, (width, depth) in enumerate(((32, 2), (64, 1))):
        for number in range(depth):
            linear = {f"attention.self.{one}": (width, width) for one in ("query", "key", "value")}
            linear |= {"attention.output.dense": (width, width), "intermediate.dense": (4 * width, width)}
            linear |= {"output.dense": (width, 4 * width)}
            block: Shapes = {"attention.self.relative_position_bias_table": (169, width // 32)}
            block |= {f"layernorm_{where}.{kind}": (width,) for where in ("before", "after") for kind in KINDS}
            block |= {f"{key}.weight": shape for key, shape in linear.items()}
            block |= {f"{key}.bias": shape[:1] for key, shape in linear.items()}
            found |= {f"encoder.layers.{stage}.blocks.{number}.{key}": shape for key, shape in block.items()}
    found |= {"encoder.layers.0.downsample.reduction.weight": (64, 128)}
    return found | {f"encoder.layers.0.downsample.norm.{kind}": (128,) for kind in KINDS}


def below(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + key: shape for key, shape in shapes.items()}


def bert_words() -> list[str]:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    plain = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    return plain + [one for one in letters if one not in plain] + [f"##{one}" for one in letters]


def write_bert_words(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(bert_words()) + "\n")


def copy_clip_words(clip: Path, folder: Path) -> int:
    """Tokenizer files of a CLIP; the number of its words."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(clip / name, folder / name)
    return 1 + max(json.loads((clip / "tokenizer.json").read_text())["model"]["vocab"].values())


def open_clip_config(vocabulary: int, **model: Any) -> dict[str, Any]:
    s = CLIP_SIZES
    vision = {"image_size": s["side"], "layers": s["layers"], "width": s["width"], "patch_size": s["patch"]}
    text = {"context_length": 77, "vocab_size": vocabulary, "width": s["text_width"], "heads": s["text_width"] // 64}
    text |= {"layers": s["text_layers"]}
    return {"model_cfg": {"embed_dim": s["dim"], "vision_cfg": vision, "text_cfg": text} | model, "preprocess_cfg": {}}


def write_quiltnet(folder: Path, clip: Path) -> Weights:
    from safetensors.torch import save_file

    vocabulary = copy_clip_words(clip, folder)
    weights = random(openai_shapes(vocabulary))
    (folder / "open_clip_config.json").write_text(json.dumps(open_clip_config(vocabulary)))
    save_file(weights, folder / "open_clip_model.safetensors")
    return weights


def write_chexzero(folder: Path, clip: Path) -> Weights:
    weights = random(openai_shapes(copy_clip_words(clip, folder)))
    torch.save(weights, folder / "best_64.pt")
    return weights


def biomedclip_config(side: int = 16, *, new: bool = True) -> dict[str, Any]:
    vision = {"timm_model_name": "vit_base_patch8_16", "timm_model_pretrained": False, "timm_pool": ""}
    vision |= {"timm_proj": "linear", "image_size": side}
    text = {"hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract", "context_length": 256}
    kinds = {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"}
    text |= kinds if new else {"proj": "mlp", "pooler_type": "cls_last_hidden_state_pooler"}
    return {"model_cfg": {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": {}}


def write_biomedclip(folder: Path, _clip: Path | None = None, *, new: bool = True) -> Weights:
    shapes = below("visual.trunk.", timm_shapes()) | {"visual.head.proj.weight": (24, 128), "logit_scale": ()}
    shapes |= below("text.transformer.", bert_shapes(pooler=False))
    shapes |= {"text.proj.0.weight": (76, 128), "text.proj.2.weight": (24, 76)}
    weights = random(shapes)
    old = {"text.transformer.embeddings.position_ids": torch.arange(300)[None]}
    torch.save(weights | old, folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(json.dumps(biomedclip_config(new=new)))
    write_bert_words(folder)
    return weights


def write_medclip(folder: Path, _clip: Path | None = None) -> Weights:
    shapes = below("vision_model.model.", swin_shapes()) | {"vision_model.projection_head.weight": (24, 64)}
    shapes |= below("text_model.model.", bert_shapes(pooler=True)) | {"text_model.projection_head.weight": (24, 128)}
    weights = random(shapes | {"logit_scale": ()})
    old = {
        f"{key[: -len('bias_table')]}index": torch.zeros(49, 49, dtype=torch.int64)
        for key in weights
        if "_table" in key
    }
    old |= {"text_model.model.embeddings.position_ids": torch.arange(300)[None]}
    torch.save(weights | old, folder / "pytorch_model.bin")
    write_bert_words(folder)
    return weights


def write_siglip(folder: Path, _clip: Path | None = None) -> Weights:
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import SiglipConfig, SiglipModel

    words = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config=shared | {"vocab_size": len(words), "max_position_embeddings": 64, "projection_size": 32},
        vision_config=shared | {"image_size": 16, "patch_size": 8},
    )
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in SiglipModel(config).state_dict().items()}
    weights = random(shapes) | {"logit_scale": torch.tensor([2.5]), "logit_bias": torch.tensor([-10.0])}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config.save_pretrained(folder)
    said: dict[str, Any] = {"size": {"height": 16, "width": 16}, "resample": 3, "image_mean": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(said | {"image_std": [0.5] * 3}))
    return weights


# name of the family: what writes it, and how a user calls it
WRITERS = {
    "quiltnet": (write_quiltnet, "{}"),
    "chexzero": (write_chexzero, "chexzero={}/best_64.pt"),
    "biomedclip": (write_biomedclip, "{}"),
    "medclip": (write_medclip, "medclip-vit={}"),
    "siglip": (write_siglip, "{}"),
}
