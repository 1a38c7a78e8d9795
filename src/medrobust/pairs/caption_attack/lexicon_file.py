"""The form of lexicon.yaml: one value for each kind of entry."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from medrobust.attacks.errors import AttackError
from medrobust.errors import nearest

N = TypeVar("N")

Pairs = Sequence[tuple[str, str]]


class BodyParts(NamedTuple):
    """Body parts that may stand for one another; names of one part are separated by ` = `."""

    group: str
    source: str
    members: Sequence[str]
    plural: bool = True


class Opposites(NamedTuple):
    """Words and their opposites, in both directions or one."""

    group: str
    source: str
    role: str
    pairs: Pairs
    one_way: Pairs = ()
    plural: bool = False


class Negations(NamedTuple):
    """Words that deny what follows or their clause, and pairs of answers."""

    determiners: Sequence[str]
    followers: Sequence[str]
    after: Pairs
    clause: Pairs
    answers: Pairs
    source: str = ""


class SenseOf(NamedTuple):
    """Another meaning of a word next to, or after, certain words."""

    word: str
    before: Sequence[str] = ()
    after: Sequence[str] = ()
    earlier: Sequence[str] = ()
    now: str = ""
    source: str = ""


class NounPhrases(NamedTuple):
    """Nouns that are counted, and words that end a noun phrase."""

    countable: Sequence[str]
    ends: Sequence[str]
    source: str = ""


class LexiconFile(NamedTuple):
    """All that the file holds."""

    sources: Mapping[str, str]
    body_parts: list[BodyParts]
    antonyms: list[Opposites]
    negations: Negations
    kept: Sequence[str]
    senses: list[SenseOf]
    noun_phrases: NounPhrases


def lexicon_file(found: Mapping[str, Any]) -> LexiconFile:
    """The file from the plain values of its YAML.

    Raises AttackError for an unknown key; TypeError, KeyError or AttributeError for another form.
    """
    for key in found:
        if key not in LexiconFile._fields:
            keys = LexiconFile._fields
            raise AttackError(f"unknown key {key!r}{nearest(str(key), keys)}; the keys are {', '.join(keys)}")
    plain = LexiconFile(**found)
    return plain._replace(
        body_parts=[_entry(BodyParts, row) for row in plain.body_parts],
        antonyms=[_entry(Opposites, row) for row in plain.antonyms],
        negations=_entry(Negations, plain.negations),
        senses=[_entry(SenseOf, row) for row in plain.senses],
        noun_phrases=_entry(NounPhrases, plain.noun_phrases),
    )


def _entry(form: Callable[..., N], row: Any) -> N:
    return form(**row)
