"""Contrastive pre-training of a CLIP on image-caption pairs.

Reference: Radford et al., "Learning transferable visual models from natural language supervision", ICML 2021. All
images that a caption describes are its matches, as in Yang et al., "Unified contrastive learning in image-text-label
space", CVPR 2022; where every image has a caption of its own this is CLIP's loss. Leaving out patches: Li et al.,
"Scaling language-image pre-training via masking", CVPR 2023.
"""

import copy
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from medrobust.learning.checkpoint import Checkpoint
from medrobust.learning.loop import Schedule, Session, StepProgress, descend
from medrobust.models.clip import silent
from medrobust.models.hooks import changed_output
from medrobust.models.prompting import token_rows
from medrobust.pairs.batches import PairBatch, Pairs, batches
from medrobust.pairs.recipe import Recipe
from medrobust.pairs.tokenizer import train_tokenizer
from medrobust.seeds import stream

# Mean and standard deviation of CLIP's own preprocessing
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LARGEST_SCALE = math.log(100)
CPU = torch.device("cpu")


def pretrain(
    recipe: Recipe,
    sources: Sequence[Pairs],
    *,
    start: tuple[Any, Any] | None = None,
    progress: StepProgress | None = None,
    checkpoint: Checkpoint | None = None,
    device: torch.device = CPU,
) -> tuple[nn.Module, Any]:
    """A network (`transformers.CLIPModel`) and its tokenizer, trained as the recipe says; from `start`, if given.

    With a checkpoint, a training cut off goes on. Captions that are too long are cut off, as CLIP does. Raises
    TrainingError where the loss is not finite.
    """
    texts = [caption for pairs in sources for captions in pairs.captions for caption in captions]
    sizes, training = recipe.architecture, recipe.training
    network, tokenizer = start or _untrained(recipe, texts)
    tokens = {
        text: tokenizer(text, truncation=True, max_length=sizes.context_length)["input_ids"] for text in set(texts)
    }
    network.to(device).train()
    generator = stream(training.seed, "pretrain")
    draw = batches(sources, training.batch, generator)
    average = copy.deepcopy(network)
    whole_from = training.steps - training.unmasked if training.masked else 0

    def loss(step: int) -> Tensor:
        batch = draw().to(device)
        rows = token_rows([tokens[text] for text in batch.captions], words=0, limit=sizes.context_length).to(device)
        with nullcontext() if step >= whole_from else masked(network, training.masked, generator):
            return contrastive_loss(network, batch, rows)

    def after(step: int) -> None:
        with torch.no_grad():
            network.logit_scale.clamp_(max=LARGEST_SCALE)
            follow(average, network, min(training.average, (step + 1) / (step + 10)))

    descend(
        loss,
        _optimiser(network, training.weight_decay),
        Schedule(training.lr, training.steps, warmup=training.warmup),
        clip_norm=1.0,
        after=after,
        session=Session(progress, checkpoint=_with(checkpoint, average, generator)),
    )
    return average.to(CPU).eval(), tokenizer


def _with(checkpoint: Checkpoint | None, average: nn.Module, generator: torch.Generator) -> Checkpoint | None:
    """Tensors besides the parameters that a checkpoint needs for an exact continuation."""
    return checkpoint and replace(checkpoint, beside=tuple(average.parameters()), generator=generator)


@contextmanager
def masked(network: Any, share: float, generator: torch.Generator) -> Iterator[None]:
    """Limit the vision tower, in this block, to random patches of each image, drawn anew at every pass; one at least.

    They are left out after the position embeddings, so that each keeps its place, and cost nothing from there on.
    """

    def leave_out(tokens: Float[Tensor, "batch tokens width"]) -> Tensor:
        count, patches = len(tokens), tokens.shape[1] - 1
        kept = max(1, round((1 - share) * patches))
        places = torch.rand(count, patches, generator=generator).topk(kept).indices.sort().values + 1
        places = torch.cat([torch.zeros(count, 1, dtype=torch.long), places], dim=1).to(tokens.device)
        return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))

    with changed_output(network.vision_model.embeddings, leave_out):
        yield


def _untrained(recipe: Recipe, texts: Sequence[str]) -> tuple[Any, Any]:
    sizes = recipe.architecture
    tokenizer = train_tokenizer(texts, vocabulary=sizes.vocabulary, context_length=sizes.context_length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        return untrained_clip(recipe, tokenizer), tokenizer


def contrastive_loss(network: Any, batch: PairBatch, rows: Int[Tensor, "captions tokens"]) -> Float[Tensor, ""]:
    """Cross-entropy both ways over the batch; a caption's target is shared by the images that it describes."""
    mean, std = (torch.tensor(three, device=batch.images.device).view(3, 1, 1) for three in (MEAN, STD))
    images = network.get_image_features(pixel_values=(batch.images - mean) / std).pooler_output
    texts = network.get_text_features(input_ids=rows).pooler_output
    logits = network.logit_scale.exp() * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    described = F.one_hot(batch.caption_of, len(batch.captions)).float()
    share = described / described.sum(dim=0, keepdim=True)
    return 0.5 * (F.cross_entropy(logits, batch.caption_of) + F.cross_entropy(logits.T, share.T))


def untrained_clip(recipe: Recipe, tokenizer: Any) -> Any:
    """The untrained network of a recipe."""
    from transformers import CLIPConfig, CLIPModel

    sizes = recipe.architecture
    end = tokenizer.eos_token_id
    text = {
        "vocab_size": end + 1,
        "hidden_size": sizes.text_width,
        "intermediate_size": 4 * sizes.text_width,
        "num_hidden_layers": sizes.text_layers,
        "num_attention_heads": sizes.text_heads,
        "max_position_embeddings": sizes.context_length,
        "projection_dim": sizes.projection,
        "hidden_act": "gelu",
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    vision = {
        "image_size": sizes.image_size,
        "patch_size": sizes.patch_size,
        "hidden_size": sizes.vision_width,
        "intermediate_size": 4 * sizes.vision_width,
        "num_hidden_layers": sizes.vision_layers,
        "num_attention_heads": sizes.vision_heads,
        "projection_dim": sizes.projection,
        "hidden_act": "gelu",
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=sizes.projection))


def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the averaged weights a step towards the network's."""
    for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)


def save(network: Any, tokenizer: Any, recipe: Recipe, folder: Path) -> None:
    """A folder in the format of transformers that `models.load` reads: fp16 safetensors, tokenizer, preprocessing."""
    with silent():
        network.half().save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)
    side = recipe.architecture.image_size
    preprocessing = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "do_convert_rgb": True,
    }
    text = json.dumps(preprocessing, indent=2) + "\n"
    (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")


def _optimiser(network: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    flat = [p for p in network.parameters() if p.ndim < 2]
    matrices = [p for p in network.parameters() if p.ndim >= 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": flat, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6, fused=True)
