"""Small captioned data sets: on disk, as a user has them, and in memory."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image as Picture

from medrobust.data.task import Dataset
from medrobust.pairs.captioned import CaptionedImages

CAPTIONS = (
    "Large mass in the left lung.",
    "Normal liver, upper pole.",
    "Abbildung ohne Befund",
    "No pleural effusion.",
)


def draw(path: Path, number: int, *, side: int = 16) -> None:
    """A grainy picture of its own."""
    pixels = torch.randint(256, (side, side, 3), generator=torch.Generator().manual_seed(number)).byte().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(pixels).save(path)


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """A .csv or .jsonl file with those rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def captioned(data: Dataset, count: int = 24) -> CaptionedImages:
    """The colours under captions of clinics, in turn; no labels."""
    captions = tuple(CAPTIONS[row % len(CAPTIONS)] for row in range(count))
    return CaptionedImages(data.ids[:count], captions, data.read, data.source, data.split)
