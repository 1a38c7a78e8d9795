"""Randomized smoothing as others write it: the plain loop of the literature, a tuned one, and IBM's ART.

The loops are ours, after what the published code does step by step (Cohen et al. 2019; Hussein et al. 2024); none of
it is copied.
"""

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from speed_gemm import Paired
from speed_networks import CLASSES, MEAN, STD, network, picture, texts
from torch import Tensor

from medrobust.models.clip import silent

SIGMA, SCALE = 0.25, 100.0
ART = ("adversarial-robustness-toolbox==1.20.1", "statsmodels", "torch", "transformers")  # statsmodels: undeclared


class Loops:
    """One network under the two hand-written loops."""

    def __init__(self, name: str) -> None:
        with silent():
            self._network = network(name)
        self._mean, self._std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        self._normalised = (picture(name)[None] - self._mean) / self._std  # as a data loader hands it over
        self._tokens = texts(name)

    @torch.no_grad()
    def literature(self, draws: int, batch: int) -> int:
        """Text in every batch, normalised input undone and done again, every batch fetched and counted on the host."""
        counts = np.zeros(CLASSES, dtype=int)
        for start in range(0, draws, batch):
            images = self._normalised.repeat((min(batch, draws - start), 1, 1, 1))
            pixels = images * self._std + self._mean
            noisy = pixels + torch.randn_like(pixels) * SIGMA
            features = F.normalize(self._image((noisy - self._mean) / self._std), dim=-1)
            logits = SCALE * features @ self._text().T
            for answer in logits.argmax(dim=1).cpu().numpy():
                counts[answer] += 1
        return int(counts.sum())

    @torch.inference_mode()
    def tuned(self, draws: int, batch: int) -> int:
        """The same network with the text encoded once, and no more done to a pixel than must be."""
        prototypes = self._text().T
        counts = torch.zeros(CLASSES, dtype=torch.int64)
        base = self._normalised
        scale = SIGMA / self._std
        for start in range(0, draws, batch):
            noisy = base + scale * torch.randn(min(batch, draws - start), *base.shape[1:])
            answers = (self._image(noisy) @ prototypes).argmax(dim=1)
            counts += torch.bincount(answers, minlength=CLASSES)
        return int(counts.sum())

    def _image(self, pixels: Tensor) -> Tensor:
        found: Tensor = self._network.visual_projection(self._network.vision_model(pixel_values=pixels).pooler_output)
        return found

    def _text(self) -> Tensor:
        pooled = self._network.text_model(input_ids=self._tokens).pooler_output
        return F.normalize(self._network.text_projection(pooled), dim=-1)


class Art:
    """ART's randomized smoothing of one network, in a process and an environment of its own."""

    def __init__(self, folder: Path, name: str, threads: int) -> None:
        worker = Path(__file__).with_name("speed_art.py")
        self._process = subprocess.Popen(
            [_python(folder), str(worker), name, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.versions: dict[str, str] = self._answer()

    def measure(self, draws: int, batch: int) -> Paired:
        """Certify with so many draws, and time it beside the worker's own probe."""
        if self._process.stdin is None:
            raise RuntimeError("the worker has no input")
        self._process.stdin.write(json.dumps({"draws": draws, "batch": batch}) + "\n")
        self._process.stdin.flush()
        return Paired(**self._answer())

    def close(self) -> None:
        """End the worker."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError(f"the worker ended with exit code {self._process.wait()}; its message stands above")
        found: dict[str, Any] = json.loads(line)
        return found


def install_art(folder: Path) -> None:
    """Make the environment, once; it takes a minute or two and 1.3 GB."""
    if (folder / "ready").exists():
        return
    print(f"installing {' '.join(ART)} into an environment of its own", file=sys.stderr, flush=True)
    venv.create(folder, with_pip=True, clear=True)
    constraints = Path(__file__).parents[1] / "constraints.txt"
    subprocess.run(
        [_python(folder), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", constraints, *ART],
        check=True,
    )
    (folder / "ready").touch()


def _python(folder: Path) -> str:
    return str(folder / ("Scripts" if sys.platform == "win32" else "bin") / "python")
