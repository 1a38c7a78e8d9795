"""Every answer of real certificates with a fixed number of draws, kept in order, so that any rule can be replayed.

One file a data set, written after every image: an interrupted collection goes on where it stopped.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from speed_record import sources

from medrobust.data import load_task, open_dataset
from medrobust.defences import make_defence
from medrobust.models import load
from medrobust.smoothing.fast_vit import lean_encoder
from medrobust.smoothing.sampling import Copies, Draws, NoisyEncoder, Sampler
from medrobust.types import Classifier, Encoder, Image

HEADS = ("zero-shot", "vote")
SETS = {
    "blood": ("blood_pbc_28_subset.npz", "bloodmnist"),
    "chest": ("pneumoniamnist_subset.npz", "pneumoniamnist"),
}
SELECTION, ESTIMATION, SIGMA, BATCH = 100, 10_000, 0.25, 64


@dataclass(frozen=True)
class Sequences:
    """For each image and head: the class chosen from its own draws, and for every further draw whether it says so."""

    labels: np.ndarray  # images
    selected: np.ndarray  # images x heads
    packed: np.ndarray  # images x heads x bytes
    settled: np.ndarray  # images x heads: after how many draws the choice could not change any more

    def hits(self, head: int) -> np.ndarray:
        """images x draws, 0 or 1."""
        return np.unpackbits(self.packed[:, head], axis=1, count=ESTIMATION)


def collect(name: str, out: Path, *, images: int, seconds: float, compiled: bool) -> Sequences:
    """Certify until there are enough images or the time is up; returns what is there."""
    path = out / f"replay-{name}-{sources('src/medrobust/smoothing/noise.py')}.npz"
    known = _read(path)
    model = load("builtin")
    source, task = SETS[name]
    data = open_dataset(source, load_task(task), preprocess=model.preprocess, split="test", limit=images)
    classifiers = [make_defence(head).apply(model, data.task, {}) for head in HEADS]

    def lean(_encode: Encoder, _image: Image) -> NoisyEncoder:
        return lean_encoder(model.encode_image.parts(), compile=compiled)

    sampler, began = Sampler(BATCH, lean), time.monotonic()
    for number in range(len(known.labels), len(data)):
        if time.monotonic() - began > seconds:
            print(f"{name}: {number} of {len(data)} images; run it again to go on", file=sys.stderr, flush=True)
            break
        found = _sequences(classifiers, data.read(number), data.ids[number], sampler)
        known = Sequences(np.append(known.labels, data.targets[number]), *_joined(known, found))
        _write(path, known)
    return known


def _sequences(
    classifiers: Sequence[Classifier], image: Image, item: str, sampler: Sampler
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `smoothing.certify` would count, draw by draw, from the same noise."""
    copies = Copies(classifiers, image, sampler)
    chosen = _answers(copies, Draws(SIGMA, SELECTION, "selection", 0, item), len(classifiers))
    classes = max(2, int(chosen.max()) + 1)
    votes = np.stack([np.bincount(column[column >= 0], minlength=classes) for column in chosen.T])
    selected = votes.argmax(axis=1)
    said = _answers(copies, Draws(SIGMA, ESTIMATION, "estimation", 0, item), len(classifiers))
    settled = np.array([_settled(column) for column in chosen.T])
    return selected, np.packbits(said == selected, axis=0).T, settled


def _answers(copies: Copies, draws: Draws, heads: int) -> np.ndarray:
    """draws x heads."""
    everyone = torch.ones(heads, dtype=torch.bool)
    batches = []
    for batch in copies.answers(draws, lambda: everyone):
        said = torch.empty(len(batch[0][1]), heads, dtype=torch.int64)
        for places, answers in batch:
            said[:, places] = answers.cpu()
        batches.append(said)
    return torch.cat(batches).numpy()


def _settled(answers: np.ndarray) -> int:
    """Draws until no class can catch up, as sampling sees it: at the end of a batch."""
    for drawn in range(BATCH, len(answers), BATCH):
        first, second = np.sort(np.bincount(answers[:drawn][answers[:drawn] >= 0], minlength=2))[::-1][:2]
        if first - second > len(answers) - drawn:
            return drawn
    return len(answers)


def _joined(known: Sequences, found: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    before = (known.selected, known.packed, known.settled)
    return [np.concatenate([old.reshape(-1, *new.shape), new[None]]) for old, new in zip(before, found, strict=True)]


def _read(path: Path) -> Sequences:
    if not path.exists():
        none = np.zeros(0, dtype=np.int64)
        return Sequences(none, none, none.astype(np.uint8), none)
    with np.load(path, allow_pickle=False) as stored:
        return Sequences(**{name: stored[name] for name in ("labels", "selected", "packed", "settled")})


def _write(path: Path, found: Sequences) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    with draft.open("wb") as file:
        np.savez_compressed(file, **vars(found))
    draft.replace(path)
