"""The lexicon: every entry works as its file says, and a wrong file is refused by name."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from medrobust.attacks.errors import AttackError
from medrobust.pairs.caption_attack.attack import attack_caption, attack_captions
from medrobust.pairs.caption_attack.lexicon import load_lexicon

FILE = files("medrobust.pairs.caption_attack") / "lexicon.yaml"
RAW = yaml.safe_load(FILE.read_text(encoding="utf-8"))
BODY_PARTS = {row["group"]: row for row in RAW["body_parts"]}
ANTONYMS = {row["group"]: row for row in RAW["antonyms"]}


def attacked(text: str) -> str:
    return attack_caption(text).text


def between(text: str, carrier: str) -> str:
    """What stands at the asterisk of a carrier sentence."""
    before, after = carrier.split("*")
    assert text.startswith(before)
    assert text.endswith(after)
    return text[len(before) : len(text) - len(after)]


def test_there_are_enough_entries() -> None:
    parts = sum(len(row["members"]) for row in BODY_PARTS.values())
    opposites = sum(2 * len(row["pairs"]) + len(row.get("one_way", [])) for row in ANTONYMS.values())
    assert parts >= 150
    assert len(load_lexicon()) == parts + opposites


@pytest.mark.parametrize("group", BODY_PARTS)
def test_a_body_part_becomes_another_of_its_group(group: str) -> None:
    """Under each of its names, in the number that it was in."""
    forms = load_lexicon().groups[group]
    written = [member.split(" = ") for member in BODY_PARTS[group]["members"]]
    for place, aliases in enumerate(written):
        others = [other for index, other in enumerate(forms) if index != place]
        for alias in aliases:
            one, _, many = alias.partition("/")
            assert between(attacked(f"look, {one} again"), "look, * again") in {other.one for other in others}
            if many:
                assert between(attacked(f"look, {many} again"), "look, * again") in {other.many for other in others}
        if (plural := forms[place].many) is not None:
            assert between(attacked(f"look, {plural} again"), "look, * again") in {other.many for other in others}


@pytest.mark.parametrize("group", ANTONYMS)
def test_an_opposite_is_put_in(group: str) -> None:
    row = ANTONYMS[group]
    for was, now in [*row["pairs"], *(pair[::-1] for pair in row["pairs"]), *row.get("one_way", [])]:
        assert attacked(f"look, {was} again") == f"look, {now} again"


@pytest.mark.parametrize("group", ANTONYMS)
def test_two_attacks_on_a_pair_give_the_caption_back(group: str) -> None:
    for pair in ANTONYMS[group]["pairs"]:
        for word in pair:
            once = attacked(f"look, {word} again")
            assert once != f"look, {word} again"
            assert attacked(once) == f"look, {word} again"


def spoiled() -> list[Any]:
    text = FILE.read_text(encoding="utf-8")
    cases = {
        "'liver' stands under 'limbs' and 'single organs'": ("[arm, leg]", "[arm, leg, liver]"),
        "'left' stands under 'sides'": ("[leftward, rightward]", "[left, rightward]"),
        "'limbs' must occur once and have two": ("[arm, leg]", "[arm]"),
        "'joints' must occur once": ("group: digits", "group: joints"),
        "role 'side'; the roles are": ("role: direction", "role: side"),
        "source 'radlx'": ("source: radlex", "source: radlx"),
        "'lefty' is of no entry": ("{word: left, before", "{word: lefty, before"),
        "unknown key 'keep'": ("\nkept:", "\nkeep:"),
        "expected text; put it in quotes": ('determiners: ["no"]', "determiners: [no]"),
        "not the form of lexicon.yaml": ("\nsenses:", "\nsources:"),
        "is not YAML": ("[arm, leg]", "[arm, leg"),
    }
    assert all(old in text for old, _ in cases.values())
    return [pytest.param(text.replace(*pair, 1), message, id=message) for message, pair in cases.items()]


@pytest.mark.parametrize(("text", "message"), spoiled())
def test_a_wrong_lexicon_is_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(AttackError, match=rf"mine\.yaml.*{message}"):
        load_lexicon(path)


def test_a_lexicon_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE.read_text(encoding="utf-8").replace("[arm, leg]", "[wing, tail]"), encoding="utf-8")
    mine = load_lexicon(path)
    assert attack_caption("left wing, arm", mine).text == "right tail, arm"
    assert attack_captions(["a tail"], lexicon=mine).captions == ("a wing",)
    with pytest.raises(AttackError, match="cannot be read"):
        load_lexicon(tmp_path / "none.yaml")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(AttackError, match="not UTF-8"):
        load_lexicon(path)
