"""Training on attacked pairs: the pairs, where training goes on from, and `medrobust pretrain --noise`."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from captioned import CAPTIONS, captioned, draw, write_rows
from typer.testing import CliRunner, Result

from medrobust.attacks.ball import Ball
from medrobust.cli import app
from medrobust.data.task import Dataset
from medrobust.errors import ConfigError, ModelError
from medrobust.models import load
from medrobust.models.clip import Clip
from medrobust.pairs.attacked_pairs import Noise, fixed_pairs, resizing
from medrobust.pairs.batches import batches
from medrobust.pairs.captioned import captioned_by_class
from medrobust.pairs.image_attack import EmbeddingAttack
from medrobust.pairs.poison import Poison, chosen, eight_bit
from medrobust.pairs.pretrain import pretrain, save
from medrobust.pairs.recipe import PairSource, Recipe, load_recipe
from medrobust.pairs.start import start_from
from medrobust.seeds import stream

POISON = Poison(0.25, Ball("linf", 12 / 255), EmbeddingAttack(steps=3, step=4 / 255))


def test_only_the_chosen_pairs_are_attacked(tiny: Clip, dataset: Dataset) -> None:
    pairs = replace(captioned(dataset), labels=dataset.targets)
    told: list[tuple[int, int]] = []
    fixed, done = fixed_pairs(pairs, Noise(POISON, tiny.encode_image, lambda *steps: told.append(steps)))
    rows = chosen(24, 0.25, 0)
    assert [pair.id for pair in done] == [pairs.ids[row] for row in rows]
    texts = [fixed.captions[number][0] for number in fixed.labels.tolist()]
    after = {pair.id: pair.caption_after for pair in done}
    assert texts == [after.get(name, text) for name, text in zip(pairs.ids, pairs.captions, strict=True)]
    assert texts != list(pairs.captions)
    moved = (fixed.images != eight_bit(dataset.images())).flatten(1).any(dim=1)
    assert moved.nonzero().flatten().tolist() == sorted(rows)
    assert told == [(6, 6)]


def test_images_of_one_caption_share_it_and_classes_stay_equally_likely(dataset: Dataset) -> None:
    lopsided = dataset.subset([row for row, label in enumerate(dataset.targets) if label == 0 or row < 6])
    fixed, done = fixed_pairs(captioned_by_class(lopsided, 0), share=0.5, any_rotation=True)
    assert done == []
    assert (fixed.share, fixed.any_rotation) == (0.5, True)
    assert len(set(fixed.captions)) == len(fixed.captions)
    draw_batch = batches([fixed], 60, stream(0, "pretrain"))
    seen: Counter[int] = Counter()
    for _ in range(20):
        batch = draw_batch()
        seen.update(batch.images.mean(dim=(2, 3)).argmax(dim=1).tolist())
        for image, place in zip(batch.images, batch.caption_of.tolist(), strict=True):
            colour = ("red", "green", "blue")[int(image.mean(dim=(1, 2)).argmax())]
            assert colour in batch.captions[place]
    assert all(300 < seen[label] < 500 for label in range(3))


def test_without_labels_every_pair_is_equally_likely(dataset: Dataset) -> None:
    fixed, _ = fixed_pairs(captioned(dataset))
    assert fixed.chance is not None
    assert torch.equal(fixed.chance, torch.ones(24))


def test_a_surrogate_of_another_size_sees_resized_images(tiny: Clip) -> None:
    encode = resizing(tiny.encode_image, 16)
    images = torch.rand(2, 3, 1, 1).expand(2, 3, 16, 16)
    assert torch.equal(encode(images), tiny.encode_image(images))
    large = images.repeat_interleave(2, 2).repeat_interleave(2, 3).requires_grad_(True)
    torch.testing.assert_close(encode(large), tiny.encode_image(images), atol=1e-4, rtol=1e-4)
    encode(large).sum().backward()
    assert large.grad is not None
    assert large.grad.abs().sum() > 0


def test_training_goes_on_where_a_model_stands(checkpoint: Path, tiny: Clip, recipe: Recipe, dataset: Dataset) -> None:
    other = recipe.model_copy(update={"architecture": recipe.architecture.model_copy(update={"image_size": 32})})
    start = start_from(str(checkpoint), other)
    assert start.recipe.architecture.image_size == 16
    still = start.recipe.model_copy(update={"training": recipe.training.model_copy(update={"steps": 1, "lr": 1e-9})})
    network, tokenizer = pretrain(still, [fixed_pairs(captioned(dataset))[0]], start=(start.network, start.tokenizer))
    folder = checkpoint.parent / "further"
    save(network, tokenizer, start.recipe, folder)
    further = load(str(folder))
    with torch.no_grad():
        images = dataset.images()
        torch.testing.assert_close(further.encode_image(images), tiny.encode_image(images), atol=5e-3, rtol=5e-3)
        torch.testing.assert_close(
            further.encode_text(["red paint"]), tiny.encode_text(["red paint"]), atol=5e-3, rtol=5e-3
        )
    assert further.logit_scale == pytest.approx(tiny.logit_scale, rel=1e-2)


def test_a_start_with_other_normalisation_is_refused(
    checkpoint: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medrobust.pairs.start.MEAN", (0.5, 0.5, 0.5))
    with pytest.raises(ModelError, match="does not normalise images as CLIP does, so training cannot go on from it"):
        start_from(str(checkpoint), recipe)


def test_captions_that_are_too_long_are_cut_off(recipe: Recipe, dataset: Dataset) -> None:
    pairs = captioned_by_class(dataset, 0)
    pairs = pairs.__class__(pairs.ids, ("lung " * 200,) * 24, pairs.read, pairs.source, pairs.split)
    short = recipe.model_copy(update={"training": recipe.training.model_copy(update={"steps": 1})})
    _, tokenizer = pretrain(short, [fixed_pairs(pairs)[0]])
    tokens = tokenizer("lung " * 200, truncation=True, max_length=77)["input_ids"]
    assert (len(tokens), tokens[-1]) == (77, tokenizer.eos_token_id)


def test_a_source_of_labels_needs_a_task_and_of_captions_none() -> None:
    assert PairSource(data="folder", share=1, format="captions").task == ""
    with pytest.raises(ValueError, match="labelled images need their task; write `format: captions`"):
        PairSource(data="a.npz", share=1)
    with pytest.raises(ValueError, match="captions are read with `format: captions` only"):
        PairSource(data="a.npz", task="x", share=1, captions="c.csv")


def test_a_file_whose_source_lacks_its_task(tmp_path: Path, recipe: Recipe) -> None:
    said = recipe.model_dump(mode="json")
    del said["sources"][0]["task"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(said))
    with pytest.raises(ConfigError, match=r"mine.yaml: sources.0: .*labelled images need their task"):
        load_recipe(str(tmp_path / "mine.yaml"))


# -- the command


@pytest.fixture
def recipe_file(tmp_path: Path, task_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three colours in an .npz file, and pairs in a folder; one thread, as in all tests."""
    monkeypatch.setattr("medrobust.machine.available_threads", lambda: 1)
    labels = [0, 1, 2] * 8
    images = np.random.default_rng(0).integers(0, 60, (len(labels), 16, 16, 3), dtype=np.uint8)
    images[np.arange(len(labels)), :, :, labels] += 150
    arrays = {f"{split}_{what}": value for split in ("train", "test")
              for what, value in (("images", images), ("labels", np.array(labels)))}  # fmt: skip
    np.savez(tmp_path / "colours.npz", **arrays)
    for number in range(8):
        draw(tmp_path / "own" / f"{number}.png", number)
    write_rows(tmp_path / "own" / "captions.csv", [{"ID": n, "Caption": CAPTIONS[n % 4]} for n in range(8)])
    recipe = {
        "name": "tiny",
        "architecture": {"image_size": 16, "patch_size": 8, "vision_width": 32, "vision_layers": 1, "vision_heads": 1,
                         "text_width": 32, "text_layers": 1, "text_heads": 1, "projection": 16, "context_length": 77,
                         "vocabulary": 560},
        "sources": [{"data": str(tmp_path / "colours.npz"), "task": str(task_file), "share": 0.75},
                    {"data": str(tmp_path / "own"), "format": "captions", "share": 0.25}],
        "training": {"steps": 4, "batch": 12, "lr": 0.001, "weight_decay": 0.1, "warmup": 1, "average": 0.5},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path / "recipe.yaml"


def train(recipe_file: Path, out: Path, *words: object) -> Result:
    given = ["pretrain", recipe_file, "--out", out, "--attack-steps", 2, "--json", *words]
    return CliRunner().invoke(app, [str(word) for word in given])


def made(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_pretrain_on_attacked_pairs_from_scratch_and_further(
    recipe_file: Path, checkpoint: Path, tmp_path: Path
) -> None:
    told = made(train(recipe_file, tmp_path / "noisy", "--noise", "25%", "--surrogate", checkpoint))["noise"]
    assert json.loads((tmp_path / "noisy" / "noise.json").read_text()) == told
    assert (told["share"], told["ball"], told["steps"], told["seed"]) == (0.25, "linf 8/255", 2, 0)
    assert told["surrogate"]["sha256"] == load(str(checkpoint)).sha256
    colours, own = told["sources"]
    assert [(each["pairs"], each["attacked"]) for each in (colours, own)] == [(24, 6), (8, 2)]
    assert colours["captions_unchanged"] == 6  # no lexicon knows paint
    assert own["cosine_after"] > own["cosine_before"]
    load(str(tmp_path / "noisy"))
    further = made(train(recipe_file, tmp_path / "on", "--noise", "0", "--from", tmp_path / "noisy", "--steps", 1))
    assert [each["attacked"] for each in further["noise"]["sources"]] == [0, 0]
    assert further["noise"]["surrogate"] is None
    assert further["steps"] == 1


def test_pretrain_follows_its_seed_and_without_noise_writes_none(recipe_file: Path, tmp_path: Path) -> None:
    weights = []
    for number, seed in enumerate((0, 0, 1)):
        said = made(train(recipe_file, tmp_path / str(number), "--seed", seed))
        assert "noise" not in said
        assert next(iter(said["zero_shot"].values()))["total"] == 24
        assert not (tmp_path / str(number) / "noise.json").exists()
        weights.append((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_a_noise_that_is_no_share(recipe_file: Path, tmp_path: Path) -> None:
    done = train(recipe_file, tmp_path / "out", "--noise", "30")
    assert done.exit_code == 2
    assert "did you mean 30%?" in done.stderr
