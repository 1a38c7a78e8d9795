"""What many tests share: a tiny random CLIP, a task of three colours with its images, the folder of real data."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medrobust.data.task import Dataset, Task
from medrobust.models import load
from medrobust.models.clip import Clip
from medrobust.pairs.recipe import Recipe
from medrobust.seeds import stream

SIDE = 16


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _one_thread_again(_one_thread: None) -> Iterator[None]:
    """A test may drive the command line, which sets the threads of the process."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    architecture = {"image_size": SIDE, "patch_size": 8, "vision_width": 32, "vision_layers": 2, "vision_heads": 2}
    architecture |= {"text_width": 32, "text_layers": 2, "text_heads": 2, "projection": 16}
    training = {"steps": 120, "batch": 24, "lr": 0.003, "weight_decay": 0.1, "warmup": 3, "average": 0.8}
    return Recipe.model_validate(
        {
            "name": "tiny",
            "architecture": architecture | {"context_length": 77, "vocabulary": 560},
            "sources": [{"data": "colours.npz", "task": "colours", "share": 1}],
            "training": training,
        }
    )


@pytest.fixture(scope="session")
def task() -> Task:
    return Task(
        name="colours",
        title="Three colours",
        classes=("red paint", "green paint", "blue paint"),
        aliases=((), (), ()),
        templates=("a photo of {}.", "an image that shows {}."),
        modality="none",
        source="synthetic",
        licence="CC0 1.0",
        citation="none",
    )


@pytest.fixture(scope="session")
def dataset(task: Task) -> Dataset:
    return colours(task, 8, use="train")


@pytest.fixture(scope="session")
def unseen(task: Task) -> Dataset:
    return colours(task, 12, use="test")


def colours(task: Task, each: int, *, use: str) -> Dataset:
    """`each` grainy images a class, whose own channel is the brightest."""
    generator = stream(0, use)
    targets = [label for _ in range(each) for label in range(3)]
    images = 0.35 + 0.1 * torch.rand(len(targets), 3, SIDE, SIDE, generator=generator)
    for row, label in enumerate(targets):
        images[row, label] += 0.4
    return Dataset(
        task, tuple(f"{use}-{i}" for i in range(len(targets))), tuple(targets), images.__getitem__, "colours", use
    )


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe, task: Task) -> Path:
    """A folder in the format of transformers, with random weights."""
    from medrobust.pairs.pretrain import save, untrained_clip
    from medrobust.pairs.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    texts = [template.format(name) for template in task.templates for name in task.classes]
    tokenizer = train_tokenizer(texts, vocabulary=560, context_length=77)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = untrained_clip(recipe, tokenizer)
    save(network, tokenizer, recipe, folder)
    return folder


@pytest.fixture(scope="session")
def tiny(checkpoint: Path) -> Clip:
    return load(str(checkpoint))


@pytest.fixture(scope="session")
def taught_checkpoint(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe, dataset: Dataset) -> Path:
    """The same network after a second of training on the clean images."""
    from medrobust.pairs.batches import make_pairs
    from medrobust.pairs.pretrain import pretrain, save

    folder = tmp_path_factory.mktemp("taught") / "checkpoint"
    network, tokenizer = pretrain(recipe, [make_pairs(dataset, recipe.sources[0], {})])
    save(network, tokenizer, recipe, folder)
    return folder


@pytest.fixture(scope="session")
def taught(taught_checkpoint: Path) -> Clip:
    return load(str(taught_checkpoint))


@pytest.fixture(scope="session")
def misled(taught: Clip, dataset: Dataset) -> Dataset:
    """The images under the template, one colour said three times, that leads the model astray most."""
    from medrobust.defences.heads import prompts, text_prototypes

    def hits(template: str) -> int:
        with torch.no_grad():
            unit = torch.nn.functional.normalize(taught.encode_image(dataset.images()), dim=-1)
            answers = (unit @ text_prototypes(taught, prompts(dataset.task, template)).T).argmax(dim=1)
        return int((answers == dataset.labels).sum())

    worst = min((f"{name}. {name}. {name}. {{}}" for name in dataset.task.classes), key=hits)
    return replace(dataset, task=replace(dataset.task, templates=(worst,)))


@pytest.fixture(scope="session")
def real_data() -> Path:
    default = Path(__file__).parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("MEDROBUST_DATA", default)).resolve()
    if not folder.is_dir():
        pytest.skip(f"no folder {folder.name} with real images; MEDROBUST_DATA may name one")
    return folder


@pytest.fixture(scope="session")
def task_file(tmp_path_factory: pytest.TempPathFactory, task: Task) -> Path:
    """The three colours as a user writes a task."""
    import yaml

    values = {
        "name": task.name,
        "title": task.title,
        "classes": [{"name": name, "aliases": [name.split()[0]]} for name in task.classes],
        "templates": list(task.templates),
        "modality": task.modality,
        "source": task.source,
        "licence": task.licence,
        "citation": task.citation,
    }
    path = tmp_path_factory.mktemp("tasks") / "colours.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory, task: Task) -> Path:
    """PNG files, a folder a split and in it a folder a class."""
    folder = tmp_path_factory.mktemp("pictures")
    for split, each in (("train", 3), ("test", 3)):
        write_pictures(folder / split, colours(task, each, use=split))
    return folder


@pytest.fixture(scope="session")
def flat_folder(tmp_path_factory: pytest.TempPathFactory, task: Task) -> Path:
    """PNG files, a folder a class and no splits."""
    folder = tmp_path_factory.mktemp("flat")
    write_pictures(folder, colours(task, 2, use="flat"))
    return folder


def write_pictures(folder: Path, data: Dataset) -> None:
    """Every image of a data set as a file, under its class's alias."""
    from PIL import Image as Picture

    for number, label in enumerate(data.targets):
        pixels = (data.read(number) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        path = folder / data.task.classes[label].split()[0] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Picture.fromarray(pixels).save(path)
