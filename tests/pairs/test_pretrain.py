"""Contrastive pre-training: the loss of CLIP, a tiny network that learns, a folder that loads."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from medrobust.data.task import Dataset
from medrobust.defences.zero_shot import zero_shot
from medrobust.errors import RunError, TrainingError
from medrobust.jobs.pretrain import build_model as make
from medrobust.learning.checkpoint import Checkpoint
from medrobust.models import load
from medrobust.models.clip import Clip
from medrobust.models.prompting import token_rows
from medrobust.pairs.batches import PairBatch, Pairs, make_pairs
from medrobust.pairs.pretrain import LARGEST_SCALE, contrastive_loss, follow, masked, pretrain, save, untrained_clip
from medrobust.pairs.recipe import PairSource, Recipe
from medrobust.pairs.tokenizer import train_tokenizer
from medrobust.seeds import stream
from medrobust.tell import Tell

TEXTS = ["a red one", "a green one", "a blue one", "nothing"]


def shortened(recipe: Recipe, **changes: object) -> Recipe:
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=changes)})


@pytest.fixture(scope="module")
def pairs(dataset: Dataset, recipe: Recipe) -> Pairs:
    return make_pairs(dataset, recipe.sources[0], {})


@pytest.fixture(scope="module")
def network(recipe: Recipe) -> tuple:
    """An untrained network in evaluation mode and the rows of the four texts."""
    tokenizer = train_tokenizer(TEXTS, vocabulary=560, context_length=77)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = untrained_clip(recipe, tokenizer).eval()
    return network, token_rows([tokenizer(text)["input_ids"] for text in TEXTS], words=0, limit=77)


def test_where_every_image_has_its_own_caption_the_loss_is_transformers(network: tuple) -> None:
    from medrobust.pairs.pretrain import MEAN, STD

    net, rows = network
    images = torch.rand(4, 3, 16, 16)
    pixels = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    expected = net(input_ids=rows, pixel_values=pixels, return_loss=True).loss
    found = contrastive_loss(net, PairBatch(images, tuple(TEXTS), torch.arange(4)), rows)
    torch.testing.assert_close(found, expected)


def test_images_that_share_a_caption_share_its_target(network: tuple) -> None:
    net, rows = network
    images = torch.rand(5, 3, 16, 16)
    caption_of = torch.tensor([0, 0, 1, 0, 1])
    found = contrastive_loss(net, PairBatch(images, ("x", "y"), caption_of), rows[:2])
    lone = PairBatch(images[:1], ("x",), torch.tensor([0]))
    assert contrastive_loss(net, lone, rows[:1]).item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        unit = [torch.nn.functional.normalize(part, dim=1) for part in features(net, images, rows[:2])]
    logits = (net.logit_scale.exp() * unit[0] @ unit[1].T).double()
    by_image = -logits.log_softmax(dim=1)[torch.arange(5), caption_of].mean()
    by_text = -torch.stack([logits.log_softmax(dim=0)[caption_of == c, c].mean() for c in range(2)]).mean()
    assert found.item() == pytest.approx(((by_image + by_text) / 2).item(), rel=1e-5)


def features(net: nn.Module, images: torch.Tensor, rows: torch.Tensor) -> list[torch.Tensor]:
    from medrobust.pairs.pretrain import MEAN, STD

    pixels = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return [
        net.get_image_features(pixel_values=pixels).pooler_output,  # type: ignore[operator]
        net.get_text_features(input_ids=rows).pooler_output,  # type: ignore[operator]
    ]


def test_a_tiny_network_learns_to_name_unseen_images(taught: Clip, tiny: Clip, unseen: Dataset) -> None:
    def hits(model: Clip) -> int:
        with torch.no_grad():
            answers = zero_shot().apply(model, unseen.task, {})(unseen.images()).argmax(dim=1)
        return int((answers == unseen.labels).sum())

    assert binomtest(hits(taught), len(unseen), 1 / 3, alternative="greater").pvalue < 1e-4
    assert hits(tiny) < hits(taught)


def test_a_saved_folder_loads_with_the_features_of_the_network(
    recipe: Recipe, pairs: Pairs, dataset: Dataset, tmp_path: Path
) -> None:
    net, tokenizer = pretrain(shortened(recipe, steps=5), [pairs])
    rows = token_rows([tokenizer(text)["input_ids"] for text in TEXTS], words=0, limit=77)
    with torch.no_grad():
        image_features, text_features = features(net, dataset.images(), rows)
    save(net, tokenizer, recipe, tmp_path / "model")
    model = load(str(tmp_path / "model"))
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(dataset.images()), image_features, atol=1e-2, rtol=1e-2)
        torch.testing.assert_close(model.encode_text(TEXTS), text_features, atol=1e-2, rtol=1e-2)
    weights = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert weights < 2.5 * sum(p.numel() for p in net.parameters()) + 20_000


def test_a_recipe_gives_the_same_weights_every_time_and_a_seed_others(recipe: Recipe, pairs: Pairs) -> None:
    state = torch.get_rng_state()
    nets = [pretrain(shortened(recipe, steps=2, seed=seed), [pairs])[0].state_dict() for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(nets[0][key], nets[1][key]) for key in nets[0])
    assert not torch.equal(nets[0]["visual_projection.weight"], nets[2]["visual_projection.weight"])


def test_the_temperature_stays_in_clips_bounds(recipe: Recipe, pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    def hot(*given: Any) -> nn.Module:
        network = untrained_clip(*given)
        network.logit_scale.data.fill_(50.0)
        return network

    monkeypatch.setattr("medrobust.pairs.pretrain.untrained_clip", hot)
    net, _ = pretrain(shortened(recipe, steps=1, average=0.0), [pairs])
    assert net.logit_scale.item() == pytest.approx(LARGEST_SCALE)


def test_the_average_follows_at_its_pace() -> None:
    slow, fast = nn.Linear(2, 2), nn.Linear(2, 2)
    before = copy.deepcopy(slow)
    with torch.no_grad():
        follow(slow, fast, 0.9)
    torch.testing.assert_close(slow.weight, 0.9 * before.weight + 0.1 * fast.weight)


def test_a_loss_that_is_no_number_is_said(recipe: Recipe, pairs: Pairs) -> None:
    with pytest.raises(TrainingError, match=r"the loss became nan at step \d+; lower the learning rate"):
        pretrain(shortened(recipe, steps=20, lr=1e30, warmup=0), [pairs])


def test_progress_is_told(recipe: Recipe, pairs: Pairs) -> None:
    told: list[tuple[int, int]] = []
    pretrain(shortened(recipe, steps=2), [pairs], progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_left_out_patches_keep_the_places_of_the_others(network: tuple) -> None:
    net, _ = network
    images = torch.rand(6, 3, 16, 16)
    whole = net.vision_model.embeddings(images)  # a class token and four patches
    seen = []
    hook = net.vision_model.pre_layrnorm.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    generator = stream(0, "masks")
    with torch.no_grad():
        with masked(net, 0.5, generator):
            net.get_image_features(pixel_values=images)
            net.get_image_features(pixel_values=images)
        net.get_image_features(pixel_values=images)
        with masked(net, 0.99, generator):
            net.get_image_features(pixel_values=images)
    hook.remove()
    assert [tokens.shape[1] for tokens in seen] == [3, 3, 5, 2]
    chosen = []
    for tokens in seen[:2]:
        assert torch.equal(tokens[:, 0], whole[:, 0])
        places = [[int((whole[row] == token).all(dim=1).nonzero()) for token in tokens[row, 1:]] for row in range(6)]
        assert all(one == sorted(set(one)) and 0 not in one for one in places)
        chosen.append(places)
    assert len({tuple(row) for row in chosen[0]}) > 1  # each image's own
    assert chosen[0] != chosen[1]  # drawn anew


def test_whole_images_in_the_last_steps_or_in_all_of_them(recipe: Recipe, pairs: Pairs) -> None:
    def weights(**changes: object) -> dict[str, torch.Tensor]:
        return pretrain(shortened(recipe, steps=3, average=0.0, **changes), [pairs])[0].state_dict()

    plain, never = weights(), weights(masked=0.5, unmasked=3)
    always, last = weights(masked=0.5), weights(masked=0.5, unmasked=1)
    assert all(torch.equal(plain[key], never[key]) for key in plain)
    key = "vision_model.embeddings.patch_embedding.weight"
    assert not torch.equal(plain[key], always[key])
    assert not torch.equal(always[key], last[key])
    assert not torch.equal(plain[key], last[key])


def test_a_shorter_training_keeps_the_share_of_its_whole_images(recipe: Recipe) -> None:
    long = shortened(recipe, steps=1000, masked=0.5, unmasked=100)
    assert [long.timed(steps=steps).training.unmasked for steps in (1000, 500, 3)] == [100, 50, 1]


@pytest.mark.parametrize("stop", [1, 4])
def test_a_training_cut_off_goes_on_to_the_same_weights(
    recipe: Recipe, pairs: Pairs, tmp_path: Path, stop: int
) -> None:
    def stopping(done: int, _total: int) -> None:
        if done == stop + 1:  # of which the checkpoint does not know
            raise KeyboardInterrupt

    chosen = shortened(recipe, steps=6, masked=0.5, unmasked=2)
    whole = pretrain(chosen, [pairs])[0].state_dict()
    kept = Checkpoint(tmp_path / "kept.safetensors", {"recipe": "mine"}, seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        pretrain(chosen, [pairs], checkpoint=kept, progress=stopping)
    again = pretrain(chosen, [pairs], checkpoint=kept)[0].state_dict()
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_the_command_goes_on_and_refuses_to_go_on_with_something_else(
    recipe: Recipe, task_file: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = (dataset.images() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    labels = dataset.labels.numpy()[:, None]
    np.savez(tmp_path / "set.npz", train_images=pixels, train_labels=labels, test_images=pixels, test_labels=labels)
    source = PairSource(data=str(tmp_path / "set.npz"), task=str(task_file), share=1)
    chosen = shortened(recipe, steps=4).model_copy(update={"sources": (source,)})
    monkeypatch.setattr("medrobust.jobs.pretrain.Checkpoint", partial(Checkpoint, seconds=0.0))

    def stopping(_title: str, done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(chosen, tmp_path / "model", tell=Tell(progress=stopping))
    left = tmp_path / "model" / "pretrain.checkpoint.safetensors"
    assert left.exists()
    with pytest.raises(RunError, match=r"is a training cut off, with lr = 0\.003, asked for 0\.1"):
        make(shortened(chosen, lr=0.1), tmp_path / "model")
    told: list[str] = []
    make(chosen, tmp_path / "model", tell=Tell(told.append))
    assert any("the training goes on from it" in line for line in told)
    assert not left.exists()
    make(chosen, tmp_path / "at once")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "at once")]
    assert files[0] == files[1]
