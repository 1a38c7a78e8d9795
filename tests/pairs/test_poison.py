"""Attacked pairs: which they are, where their images go, and what is not claimed of them."""

import pytest
import torch
from captioned import captioned
from hypothesis import given, settings
from hypothesis import strategies as st

from medrobust.attacks.ball import Ball
from medrobust.data.task import Dataset
from medrobust.errors import ConfigError, DataError
from medrobust.models.clip import Clip
from medrobust.pairs.caption_attack.attack import attack_caption
from medrobust.pairs.captioned import CaptionedImages, captioned_by_class
from medrobust.pairs.image_attack import EmbeddingAttack, cosine
from medrobust.pairs.poison import (
    Poison,
    Targets,
    attack_pairs,
    chosen,
    eight_bit,
    parse_share,
    rounded,
    target_of,
)
from medrobust.pairs.poison_summary import count_attacked

QUICK = EmbeddingAttack(steps=20, step=3.7 / 255)
POISON = Poison(0.5, Ball("linf", 20 / 255), QUICK)


@pytest.mark.parametrize(
    ("text", "share"), [("10%", 0.1), (" 5 % ", 0.05), ("0.3", 0.3), ("0", 0), ("100%", 1), ("1", 1)]
)
def test_shares_as_people_write_them(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("10", r"the share is 10, must be from 0 % to 100 %; did you mean 10%\?"),
        ("120%", r"the share is 120%, must be from 0 % to 100 %; write it as 10% or 0.1"),
        ("-0.1", r"the share is -0.1, must be from"),
        ("nan", r"the share is nan, must be from"),
        ("a tenth", r"the share 'a tenth' is not a number; write it as 10% or 0.1"),
    ],
)
def test_what_is_no_share(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_share(text)


def test_a_poison_that_does_nothing_or_too_much() -> None:
    with pytest.raises(ConfigError, match="neither images nor captions would be attacked; leave out one"):
        Poison(0.1, images=False, captions=False)
    with pytest.raises(ConfigError, match=r"the share is 1.5, must be from 0 to 1"):
        Poison(1.5)


@given(st.integers(1, 400), st.floats(0, 1), st.floats(0, 1), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_shares_are_nested_and_reached(count: int, one: float, other: float, seed: int) -> None:
    small, large = sorted((one, other))
    few, many = chosen(count, small, seed), chosen(count, large, seed)
    assert many[: len(few)] == few
    assert abs(len(many) - large * count) <= 0.5
    assert len(set(many)) == len(many)


def test_which_pairs_follows_the_seed() -> None:
    assert chosen(50, 0.2, 0) != chosen(50, 0.2, 1)
    assert set(chosen(50, 1.0, 0)) == set(range(50))


@given(st.floats(0.3, 20), st.sampled_from(["linf", "l2"]), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_whole_grey_levels_stay_in_the_ball_and_close(levels: float, norm: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randint(256, (2, 3, 4, 4), generator=generator) / 255
    ball = Ball.parse(norm, levels / 255)
    moved = ball.project(centres + 30 / 255 * torch.randn(2, 3, 4, 4, generator=generator), centres)
    found = rounded(moved, centres, ball).float() / 255
    assert ball.contains(found, centres, tolerance=1e-6).all()
    if norm == "linf":  # the nearest level that the ball holds
        room = torch.floor(torch.tensor(levels + 1e-6)) / 255
        nearest = (moved * 255).round() / 255
        torch.testing.assert_close(found, nearest.clamp(centres - room, centres + room).clamp(0, 1))
    else:
        assert ball.distance(found, centres).min() > ball.eps - (48**0.5) / 255


def test_rounding_in_l2_changes_nothing_where_it_stays_inside() -> None:
    centres = torch.full((1, 3, 4, 4), 128 / 255)
    moved = centres + 3.4 / 255
    levels = eight_bit(moved).int() - 128
    assert (levels == 3).all()
    assert torch.equal(rounded(moved, centres, Ball("l2", 0.2)), eight_bit(moved))
    shrunk = rounded(moved + 0.2 / 255, centres, Ball("l2", 3.6 * 48**0.5 / 255)).int() - 128
    assert (shrunk == 3).all()


def test_images_go_to_their_targets_and_captions_turn(tiny: Clip, dataset: Dataset) -> None:
    pairs = captioned_by_class(dataset, 0)
    rows = [3, 0, 7, 10]
    images, done = attack_pairs(pairs, rows, POISON, tiny.encode_image)
    clean = dataset.images(rows)
    assert POISON.ball.contains(images.float() / 255, eight_bit(clean).float() / 255).all()
    targets = [pairs.ids.index(str(pair.target)) for pair in done]
    assert all(dataset.targets[t] != dataset.targets[row] for t, row in zip(targets, rows, strict=True))
    with torch.no_grad():
        unit = torch.nn.functional.normalize(tiny.encode_image(eight_bit(dataset.images(targets)).float() / 255), dim=1)
    after = cosine(tiny.encode_image, images.float() / 255, unit)
    before = cosine(tiny.encode_image, eight_bit(clean).float() / 255, unit)
    torch.testing.assert_close(torch.tensor([pair.cosine_after for pair in done]), after, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.tensor([pair.cosine_before for pair in done]), before, atol=1e-5, rtol=0)
    assert (1 - after < 0.5 * (1 - before)).all()
    noise = [float(-10 * (a - b).square().mean().log10())
             for a, b in zip(images.float() / 255, eight_bit(clean).float() / 255, strict=True)]  # fmt: skip
    assert [pair.psnr for pair in done] == pytest.approx(noise, abs=1e-3)


def test_captions_are_the_attacks_and_one_that_cannot_turn_is_not_said_to_have(tiny: Clip, dataset: Dataset) -> None:
    pairs = captioned(dataset)
    poison = Poison(1.0, images=False, seed=5)
    images, done = attack_pairs(pairs, range(4), poison, tiny.encode_image)
    assert torch.equal(images, eight_bit(dataset.images(range(4))))
    for pair, text in zip(done, pairs.captions, strict=False):
        attacked = attack_caption(text, seed=5)
        assert (pair.caption_before, pair.caption_after) == (text, attacked.text)
        assert pair.words_changed == tuple((change.was, change.now) for change in attacked.changed)
        assert (pair.target, pair.cosine_before, pair.cosine_after, pair.psnr) == (None, None, None, None)
    assert [pair.caption_changed for pair in done] == [True, True, False, True]
    found = count_attacked(done)
    assert (found.attacked, found.captions_changed, found.captions_unchanged) == (4, 3, 1)
    assert found.cosine_after is None


def test_captions_may_be_left_alone(tiny: Clip, dataset: Dataset) -> None:
    _, done = attack_pairs(
        captioned(dataset), [0, 1], Poison(1.0, POISON.ball, QUICK, captions=False), tiny.encode_image
    )
    assert [pair.caption_after for pair in done] == [pair.caption_before for pair in done]
    assert not any(pair.caption_changed or pair.words_changed for pair in done)


def test_a_target_has_another_class_or_caption_and_follows_seed_and_id(dataset: Dataset) -> None:
    labelled, free = captioned_by_class(dataset, 0), captioned(dataset)
    assert all(dataset.targets[target_of(row, labelled, None, 0)] != dataset.targets[row] for row in range(24))
    assert all(free.captions[target_of(row, free, None, 0)] != free.captions[row] for row in range(24))
    assert {target_of(row, free, None, 0) for row in range(24)} != {target_of(row, free, None, 1) for row in range(24)}
    other = Targets(("x", "y", "z"), dataset.read, "elsewhere")
    assert {target_of(row, free, other, 0) for row in range(24)} == {0, 1, 2}


def test_a_lone_other_caption_is_found(dataset: Dataset) -> None:
    captions = ("same",) * 5000 + ("other",)
    pairs = CaptionedImages(tuple(map(str, range(5001))), captions, dataset.read, "many", "train")
    assert target_of(0, pairs, None, 0) == 5000


def test_where_no_image_can_be_a_target(dataset: Dataset) -> None:
    alike = CaptionedImages(("a", "b"), ("x", "x"), dataset.read, "alike", "train")
    with pytest.raises(DataError, match="all images of alike have one caption, so none can be a target; pass --target"):
        target_of(0, alike, None, 0)
    with pytest.raises(DataError, match="all images of colours have one class"):
        target_of(0, captioned_by_class(dataset.subset([0, 3]), 0), None, 0)
