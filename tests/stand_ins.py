"""What packages that are absent here hold: a model of open_clip, a split of Hugging Face `datasets`."""

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LENGTH = 77


def tokenize(texts: list[str]) -> Tensor:
    """Bytes in rows of 77, cut off silently, as tokenizers of open_clip cut."""
    rows = [list(text.encode())[:LENGTH] for text in texts]
    return torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows])


class OpenClip(nn.Module):
    """The methods and attributes that a model of open_clip has, with a linear tower and a bag of words."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.visual = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, dim))
            self.token_embedding = nn.Embedding(256, dim)
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        return F.normalize(self.visual(images), dim=-1) if normalize else self.visual(images)

    def encode_text(self, tokens: Tensor, normalize: bool = False) -> Tensor:
        return self.token_embedding(tokens).mean(dim=1)


class Split(list):
    """A split of Hugging Face `datasets`, as far as it is used: rows, columns, formats, features."""

    def __init__(self, rows: list[dict[str, Any]], names: list[str] | None = None, formatted: bool = True) -> None:
        super().__init__(rows)
        self.column_names = list(rows[0])
        self.features = {"label": SimpleNamespace(names=names) if names else SimpleNamespace(dtype="int64")}
        self.formatted = formatted
        self.decoded: list[int] = []

    def with_format(self, format: str | None) -> "Split":
        assert format is None
        return Split(list(self), formatted=False)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            assert not self.formatted
            return [row[key] for row in self]
        self.decoded.append(key)
        return super().__getitem__(key)
