"""open_clip's own networks beside ours, over the same file of random weights, where open_clip can be imported.

It is no dependency: `pip install -c constraints.txt open_clip_torch` into another environment, then `pytest -m slow`.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import (
    Weights,
    below,
    bert_shapes,
    bert_words,
    biomedclip_config,
    copy_clip_words,
    open_clip_config,
    openai_shapes,
    random,
    timm_shapes,
    write_bert_words,
)
from safetensors.torch import save_file
from torch import Tensor

from medrobust.models import load
from medrobust.models.clip import Clip
from medrobust.models.inputs import CLIP_MEAN, CLIP_STD

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TEXTS = ["a photo of red paint.", "blue", "an image that shows green paint, and a lot of it."]
OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


LIBRARY = torch.library.Library("torchvision", "FRAGMENT")  # alive as long as this module
if find_spec("torchvision"):  # before anything imports it: it names two operators that a build for a CPU may lack
    for operator in (one for one in OPERATORS if not hasattr(torch.ops.torchvision, one)):
        LIBRARY.define(operator + OPERATORS[operator])


@pytest.fixture(scope="module")
def open_clip() -> Any:
    return pytest.importorskip("open_clip", reason="open_clip_torch is not installed; it is no dependency")


def pixels(images: Tensor) -> Tensor:
    return torch.stack([(images[:, c] - CLIP_MEAN[c]) / CLIP_STD[c] for c in range(3)], dim=1)


def compare(model: Clip, network: Any, fill: int, length: int) -> float:
    """The largest difference of all features."""
    size = model.preprocess.size
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    tokens = [model.tokenize(text) for text in TEXTS]
    rows = torch.tensor([[*ids, *[fill] * (length - len(ids))] for ids in tokens])
    with torch.no_grad():
        seen, read = network.encode_image(pixels(images)), network.encode_text(rows)
    return float(max((model.encode_image(images) - seen).abs().max(), (model.encode_text(TEXTS) - read).abs().max()))


@pytest.mark.parametrize("quick", [False, True])
def test_a_clip_is_open_clips(tmp_path: Path, checkpoint: Path, open_clip: Any, quick: bool) -> None:
    vocabulary = copy_clip_words(checkpoint, tmp_path)
    config = open_clip_config(vocabulary, **({"quick_gelu": True} if quick else {}))
    weights = random(openai_shapes(vocabulary))
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    network = open_clip.CLIP(**config["model_cfg"]).eval()
    network.load_state_dict(weights)  # strictly: the names and shapes are open_clip's
    assert compare(load(str(tmp_path)), network, 0, 77) < 1e-5


def test_biomedclip_is_open_clips(tmp_path: Path, open_clip: Any) -> None:
    from transformers import BertConfig

    bert = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 512}
    bert |= {"vocab_size": len(bert_words()), "max_position_embeddings": 300}
    BertConfig(**bert).save_pretrained(tmp_path / "bert")
    config = biomedclip_config(224)
    config["model_cfg"]["vision_cfg"]["timm_model_name"] = "vit_tiny_patch16_224"
    weights: Weights = random(
        below("visual.trunk.", timm_shapes(192, 12, 224, 16))
        | {"visual.head.proj.weight": (24, 192), "logit_scale": ()}
        | below("text.transformer.", bert_shapes(pooler=False))
        | {"text.proj.0.weight": (76, 128), "text.proj.2.weight": (24, 76)}
    )
    torch.save(weights, tmp_path / "open_clip_pytorch_model.bin")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    write_bert_words(tmp_path)
    model = config["model_cfg"]
    local = model["text_cfg"] | {"hf_model_name": str(tmp_path / "bert"), "hf_model_pretrained": False}
    network = open_clip.CustomTextCLIP(**(model | {"text_cfg": local})).eval()
    network.load_state_dict(weights)
    assert compare(load(str(tmp_path)), network, 0, 256) < 1e-5
