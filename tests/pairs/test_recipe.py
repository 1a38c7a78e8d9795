"""Recipes: the packaged one is whole, a user's is checked with its name."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from medrobust.data.taskfile import load_task
from medrobust.errors import ConfigError
from medrobust.models import MODELS
from medrobust.pairs.recipe import RECIPES, Recipe, caption_book, load_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_packaged_recipe_fits_together(name: str) -> None:
    recipe, sizes = load_recipe(name), load_recipe(name).architecture
    assert recipe.name == name
    assert sizes.image_size % sizes.patch_size == 0
    assert sizes.vision_width % sizes.vision_heads == sizes.text_width % sizes.text_heads == 0
    assert sum(source.share for source in recipe.sources) == pytest.approx(1)
    assert recipe.training.warmup < recipe.training.steps
    assert sizes.image_size == MODELS[name].image_size


@pytest.mark.parametrize("name", RECIPES)
def test_a_packaged_recipes_data_are_there(name: str, real_data: Path) -> None:
    for source in load_recipe(name).sources:
        load_task(source.task)
        assert source.data == "phantom" or (real_data / source.data).is_file()


@pytest.mark.parametrize("name", caption_book())
def test_the_caption_book_knows_tasks_and_classes_by_their_names(name: str) -> None:
    entry = caption_book()[name]
    assert all(frame.count("{}") == 1 for frame in entry["frames"])
    assert set(entry["classes"]) == set(load_task(name).classes)


def test_a_users_file_is_read_as_it_is(tmp_path: Path, recipe: Recipe) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert load_recipe(str(path)) == recipe


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": 0}, r"training.steps: Input should be greater than 0"),
        ({"batch": 1}, r"training.batch: Input should be greater than 1"),
        ({"average": 1.0}, r"training.average: Input should be less than 1"),
        ({"lr": "fast"}, r"training.lr: Input should be a valid number"),
        ({"stepps": 3}, r"training.stepps: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(
    tmp_path: Path, recipe: Recipe, change: dict[str, Any], sentence: str
) -> None:
    said = recipe.model_dump(mode="json")
    said["training"] |= change
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(said))
    with pytest.raises(ConfigError, match=rf"mine.yaml: {sentence}"):
        load_recipe(str(path))


@pytest.mark.parametrize("text", ["a: [", "a: b: c"])
def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"mine.yaml is not YAML: \S.*"):
        load_recipe(str(path))


def test_an_empty_file_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"mine.yaml: : Input should be"):
        load_recipe(str(tmp_path / "mine.yaml"))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match=r"mine.yaml is not UTF-8 text \(byte 6\); save it as UTF-8"):
        load_recipe(str(tmp_path / "mine.yaml"))


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'buildin': neither a file nor one of builtin"):
        load_recipe("buildin")
