"""The worker that times IBM ART; runs in ART's environment, reads {draws, batch} a line, answers a line of JSON.

python speed_art.py NETWORK THREADS
"""

import json
import sys
from importlib.metadata import version

import numpy as np
import torch
from art.estimators.certification.randomized_smoothing import (  # type: ignore[import-not-found]
    PyTorchRandomizedSmoothing,
)
from speed_gemm import paired
from speed_networks import CLASSES, MEAN, STD, network, picture, texts
from torch import Tensor, nn


class ZeroShot(nn.Module):
    """The network as ART takes it: normalised pixels in, logits out; the text is encoded once."""

    def __init__(self, name: str) -> None:
        super().__init__()
        found = network(name)
        self.vision, self.projection = found.vision_model, found.visual_projection
        with torch.no_grad():
            text = found.text_projection(found.text_model(input_ids=texts(name)).pooler_output)
        self.register_buffer("prototypes", nn.functional.normalize(text, dim=-1))

    def forward(self, pixels: Tensor) -> Tensor:
        """100 x cosine."""
        features = nn.functional.normalize(self.projection(self.vision(pixel_values=pixels).pooler_output), dim=-1)
        logits: Tensor = 100.0 * features @ self.get_buffer("prototypes").T
        return logits


def main() -> None:
    """Answer until the input ends."""
    name = sys.argv[1]
    torch.set_num_threads(int(sys.argv[2]))
    image = picture(name).numpy()[None]
    smoothed = PyTorchRandomizedSmoothing(
        model=ZeroShot(name).eval(),
        loss=nn.CrossEntropyLoss(),
        input_shape=image.shape[1:],
        nb_classes=CLASSES,
        preprocessing=tuple(np.array(values, dtype=np.float32).reshape(3, 1, 1) for values in (MEAN, STD)),
        device_type="cpu",
        scale=0.25,
        alpha=0.001,
    )
    packages = ("adversarial-robustness-toolbox", "torch", "transformers", "numpy")
    print(json.dumps({package: version(package) for package in packages}), flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        smoothed.sample_size = wanted["batch"]
        rest = wanted["draws"] - wanted["batch"]

        def work(rest: int = rest, batch: int = wanted["batch"]) -> int:
            smoothed.certify(image, n=rest, batch_size=batch)
            return rest + batch

        print(json.dumps(paired(work)._asdict()), flush=True)


if __name__ == "__main__":
    main()
