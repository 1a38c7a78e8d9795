"""Every block of the guide to models and data from Python runs, in order; packages that are absent are stood in for."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from stand_ins import OpenClip, Split, tokenize
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "howto" / "own-python.md"


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.M | re.S)


BLOCKS = blocks(GUIDE)


def on(change: Callable[[Any], Any]) -> Callable[..., Callable[[dict[str, Any]], dict[str, Any]]]:
    """A dictionary transform of one key."""
    return lambda key, *more: lambda item: item | {key: change(item[key], *more)}


def scaled(image: np.ndarray) -> np.ndarray:
    return (image - image.min()) / (image.max() - image.min())


def resized(image: np.ndarray, size: tuple[int, int]) -> Tensor:
    return nn.functional.interpolate(torch.from_numpy(image)[None], size, mode="area")[0]


class MappedItems(list):
    """MONAI's Dataset: items under a transform."""

    def __init__(self, items: list[Any], transform: Callable[[Any], Any]) -> None:
        super().__init__(items)
        self.transform = transform

    def __getitem__(self, number: Any) -> Any:
        return self.transform(super().__getitem__(number))


def composed(steps: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def together(item: Any) -> Any:
        for step in steps:
            item = step(item)
        return item

    return together


def create_model_and_transforms(name: str, pretrained: str) -> tuple[nn.Module, None, None]:
    model = OpenClip()
    visual: Any = model.visual
    visual.image_mean, visual.image_std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    return model, None, None


def load_dataset(path: str, split: str) -> Split:
    rows = [{"image": Pillow.new("RGB", (40, 36), (number, 0, 0)), "label": number % 2} for number in range(4)]
    return Split(rows, ["malignant", "benign"])


STAND_INS: dict[str, dict[str, Any]] = {
    "datasets": {"load_dataset": load_dataset},
    "monai": {},
    "monai.data": {"Dataset": MappedItems},
    "monai.transforms": {
        "Compose": composed,
        "LoadImaged": on(lambda path: np.asarray(Pillow.open(path)).T.astype(np.float32)),
        "EnsureChannelFirstd": on(lambda image: image[None]),
        "ScaleIntensityd": on(scaled),
        "Resized": on(resized),
    },
    "open_clip": {"create_model_and_transforms": create_model_and_transforms, "get_tokenizer": lambda name: tokenize},
}


def test_the_guide_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, contents in STAND_INS.items():
        module = ModuleType(name)
        module.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    grain = np.random.default_rng(1)
    for number in range(2):
        Pillow.fromarray(grain.integers(0, 256, (20, 24), dtype=np.uint8)).save(tmp_path / f"scan-{number}.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for number, block in enumerate(BLOCKS):
            exec(compile(block, f"{GUIDE.name}, block {number + 1}", "exec"), names)
    assert len(BLOCKS) == 8
    assert names["test"].read(0).shape == (3, 32, 32)
    assert names["lesions"].targets == (1, 0, 1, 0)  # by name
    assert names["scans"].images().shape == (2, 3, 32, 32)
    assert names["summary"].images == names["summary"].attacked.images == len(names["test"]) == 6
    assert names["found"].complete
    assert (tmp_path / "runs" / "own" / "report.html").exists()
    images = torch.rand(3, 3, 32, 32)
    assert torch.equal(names["classifier"](images), names["model"](images))
    assert not torch.equal(names["probed"](images), names["model"](images))
    assert names["zero_shot"](torch.rand(1, 3, 224, 224)).shape == (1, 2)
    assert capsys.readouterr().out.startswith("test/0 ")


def test_ten_lines_of_the_readme_attack_certify_and_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import medrobust

    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[10.0, 0.0, 0.0], [0.0, 10.0, 0.0]]))  # the mean of red, that of green
    items = [(Pillow.new("RGB", (40, 36), (180 - 80 * label, 100 + 80 * label, 0)), label) for label in (0, 1, 0)]
    monkeypatch.chdir(tmp_path)
    (block,) = (one for one in blocks(ROOT / "README.md") if "mr.run" in one)
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    exec(compile(block, "README.md", "exec"), {"mr": medrobust, "network": network.eval(), "items": items})
    told = capsys.readouterr().out
    assert "pgd linf 4/255" in told
    assert told.count("value=1.0") == 2  # 80 grey levels, and an l2 distance of 7.1, lie between the classes
    assert "Not a medical device" in (tmp_path / "runs" / "own" / "report.html").read_text()
