"""Body parts and clinical opposites, read from `lexicon.yaml` or a file of the user, in one pattern that finds all."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from medrobust.attacks.errors import AttackError
from medrobust.errors import nearest
from medrobust.pairs.caption_attack.lexicon_file import BodyParts, Negations, Opposites, SenseOf, lexicon_file

STRENGTH = {"presence": 2, "degree": 1, "state": 0}  # of the opposites that say what is true
ROLES = (*STRENGTH, "direction")
DETERMINERS = "determiners"


class Forms(NamedTuple):
    """A body part in the singular, and in the plural where it has one."""

    one: str
    many: str | None


class Term(NamedTuple):
    """Effect of one form of a word: `now` is put in its place; a body part's place depends on the caption."""

    role: str  # "body part", "kept", "denial", "denial of clause", "follower" of a denial, "answer", or one of ROLES
    group: str
    now: str = ""
    place: int = 0  # of a body part in its group
    plural: bool = False
    comes_back: bool = False  # the opposite of the opposite is the word


class Sense(NamedTuple):
    """Next to, or after, certain words a word means something else: `now`, or nothing that the attack knows."""

    before: frozenset[str]
    after: frozenset[str]
    earlier: frozenset[str]
    now: str


@dataclass(frozen=True, eq=False)
class Lexicon:
    """All terms by the form they are written in, the members of each group of body parts, and the grammar they need.

    A form with a capital is looked up as written, all others in small letters.
    """

    sources: Mapping[str, str]
    groups: Mapping[str, tuple[Forms, ...]]
    terms: Mapping[str, Term]
    answers: Mapping[str, str]  # words that answer a question when they stand alone
    senses: Mapping[str, tuple[Sense, ...]]
    countable: frozenset[str]
    ends: frozenset[str]
    pattern: re.Pattern[str] = field(repr=False)

    def __len__(self) -> int:
        """The number of entries: body parts and words with an opposite, other names and plurals not counted again."""
        parts = sum(len(members) for members in self.groups.values())
        return parts + sum(term.role in ROLES and not term.plural for term in self.terms.values())

    def term(self, words: str) -> Term | None:
        """The term that is written so, with its capitals or without."""
        plain = " ".join(words.split())
        return self.terms.get(plain) or self.terms.get(plain.casefold())


def load_lexicon(path: str | Path | None = None) -> Lexicon:
    """The lexicon of this package, or one in a YAML file of the same form.

    Raises AttackError naming the file and the word when a group has one member only or a word has two places.

    >>> load_lexicon().term("Vertebrae").group
    'rows of bones'
    """
    return _packaged() if path is None else _parse(_read(Path(path)), str(path))


@cache
def _packaged() -> Lexicon:
    return _parse(
        (files("medrobust.pairs.caption_attack") / "lexicon.yaml").read_text(encoding="utf-8"), "lexicon.yaml"
    )


def _parse(text: str, where: str) -> Lexicon:
    try:
        return parse_lexicon(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise AttackError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AttackError(f"{where} has not the form of lexicon.yaml ({error}); write it like that file") from error
    except AttackError as error:
        raise AttackError(f"{where}: {error}") from error


def parse_lexicon(found: Mapping[str, Any]) -> Lexicon:
    """A lexicon from what its YAML holds. Raises AttackError, as `load_lexicon` does."""
    said = lexicon_file(found)
    groups: dict[str, tuple[Forms, ...]] = {}
    terms: dict[str, Term] = {}
    for row in said.body_parts:
        _check_source(row, said.sources)
        _add_body_parts(groups, terms, row)
    for opposites in said.antonyms:
        _check_source(opposites, said.sources)
        _add_opposites(terms, opposites)
    answers = _add_negations(terms, said.negations)
    for words in said.kept:
        _add(terms, words, Term("kept", "kept"))
    senses = _senses(said.senses, {*terms, *answers})
    countable, ends = frozenset(said.noun_phrases.countable), frozenset(said.noun_phrases.ends)
    return Lexicon(said.sources, groups, terms, answers, senses, countable, ends, _pattern({*terms, *answers}))


def plural_of(noun: str) -> str:
    """The regular plural of a noun's last word.

    >>> plural_of("optic nerve"), plural_of("artery"), plural_of("crux")
    ('optic nerves', 'arteries', 'cruxes')
    """
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + ("es" if re.search(r"(s|x|z|ch|sh)$", noun) else "s")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise AttackError(f"lexicon {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise AttackError(f"lexicon {path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _check_source(row: BodyParts | Opposites, sources: Mapping[str, str]) -> None:
    if row.source not in sources:
        raise AttackError(f"group {row.group!r} has the source {row.source!r}; list it under sources")


def _add_body_parts(groups: dict[str, tuple[Forms, ...]], terms: dict[str, Term], row: BodyParts) -> None:
    members = [_names(member, plural=row.plural) for member in row.members]
    if len(members) < 2 or row.group in groups:
        raise AttackError(f"group {row.group!r} must occur once and have two members or more; add some")
    groups[row.group] = tuple(names[0] for names in members)
    for place, names in enumerate(members):
        for forms in names:
            _add(terms, forms.one, Term("body part", row.group, place=place))
            if forms.many is not None:
                _add(terms, forms.many, Term("body part", row.group, place=place, plural=True))


def _names(entry: str, *, plural: bool) -> list[Forms]:
    names = []
    for name in entry.split(" = "):
        one, _, many = name.partition("/")
        names.append(Forms(one, (many or plural_of(one)) if plural else None))
    return names


def _add(terms: dict[str, Term], words: Any, term: Term) -> None:
    if not isinstance(words, str) or not words.strip():
        raise AttackError(f"group {term.group!r} holds {words!r}, expected text; put it in quotes")
    if words in terms:
        raise AttackError(f"{words!r} stands under {terms[words].group!r} and {term.group!r}; leave it to one of them")
    terms[words] = term


def _add_opposites(terms: dict[str, Term], row: Opposites) -> None:
    if row.role not in ROLES:
        raise AttackError(f"group {row.group!r} has the role {row.role!r}; the roles are {', '.join(ROLES)}")
    both = [(was, now, True) for a, b in row.pairs for was, now in ((a, b), (b, a))]
    for was, now, back in [*both, *((was, now, False) for was, now in row.one_way)]:
        _add(terms, was, Term(row.role, row.group, now, comes_back=back))
        if row.plural:
            many = Term(row.role, row.group, plural_of(now), plural=True, comes_back=back)
            _add(terms, plural_of(was), many)


def _add_negations(terms: dict[str, Term], rows: Negations) -> dict[str, str]:
    for word in rows.determiners:
        _add(terms, word, Term("denial", DETERMINERS))
    for word in rows.followers:
        _add(terms, word, Term("follower", DETERMINERS))
    for role, pairs in (("denial", rows.after), ("denial of clause", rows.clause)):
        for was, now in pairs:
            _add(terms, was, Term(role, "negations", now))
    return {was: now for pair in rows.answers for was, now in (pair, pair[::-1])}


def _senses(rows: Iterable[SenseOf], terms: Collection[str]) -> dict[str, tuple[Sense, ...]]:
    senses: dict[str, tuple[Sense, ...]] = {}
    for row in rows:
        if row.word not in terms:
            raise AttackError(f"the sense of {row.word!r} is of no entry{nearest(row.word, terms)}; mend or remove it")
        sense = Sense(frozenset(row.before), frozenset(row.after), frozenset(row.earlier), row.now)
        senses[row.word] = (*senses.get(row.word, ()), sense)
    return senses


def _pattern(terms: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(terms, key=lambda words: (-len(words), words))
    spelled = (r"\s+".join(map(re.escape, words.split())) for words in longest_first)
    return re.compile(rf"(?<![\w'’-])(?:{'|'.join(spelled)})(?!\w)", re.IGNORECASE)
