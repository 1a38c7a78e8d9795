"""The part of the package `conch` that is called, small: its names, its pairs, the place of its class token."""

import types
from pathlib import Path
from typing import Any

import torch
from checkpoints import WORDS
from torch import Tensor, nn

SPECIAL = ["<pad>", "<start_of_text>", "<end_of_text>"]
CONTEXT = 128  # of it, one place is the class token's


class Visual(nn.Module):
    """Pixels to a pair: features for texts, tokens for captions."""

    image_size = (16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 24, 8, 8)
        self.proj = nn.Linear(24, 20, bias=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        tokens = torch.tanh(self.patch(pixels)).flatten(2).mT
        return self.proj(tokens.mean(dim=1)), tokens


class Text(nn.Module):
    """127 tokens to a pair: features, tokens; padding is not looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(len(SPECIAL) + len(WORDS), 24)
        self.positional_embedding = nn.Parameter(torch.zeros(CONTEXT, 24))
        self.proj = nn.Linear(24, 20, bias=False)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        if rows.shape[1] != CONTEXT - 1:
            raise ValueError(f"{rows.shape[1]} tokens")
        tokens = torch.tanh(self.token_embedding(rows) + self.positional_embedding[:-1])
        there = (rows != 0)[..., None]
        return self.proj((tokens * there).sum(dim=1)), tokens


class Network(nn.Module):
    """Both towers and the temperature."""

    context_length = CONTEXT

    def __init__(self) -> None:
        super().__init__()
        self.visual, self.text = Visual(), Text()
        self.logit_scale = nn.Parameter(torch.tensor(2.5))


class Words:
    """A tokenizer of transformers, as far as it is asked."""

    pad_token_id, bos_token_id, eos_token_id = range(3)

    def __call__(self, text: str, **_options: Any) -> dict[str, list[int]]:
        spaced = text.replace(".", " .").replace(",", " ,").split()
        return {"input_ids": [1, *(len(SPECIAL) + WORDS.index(word) for word in spaced), 2]}


def package() -> types.ModuleType:
    """What stands in `sys.modules` for `conch.open_clip_custom`."""

    def create(_name: str, path: str, *, return_transform: bool) -> Network:
        if return_transform:
            raise ValueError("asked for a transform")
        network = Network()
        network.load_state_dict(torch.load(path, weights_only=True), strict=False)
        return network

    made = types.ModuleType("conch.open_clip_custom")
    vars(made).update(create_model_from_pretrained=create, get_tokenizer=Words)
    return made


def write_conch(folder: Path, _clip: Path | None = None) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        weights = Network().state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    return weights
