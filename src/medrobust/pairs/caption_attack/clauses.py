"""The words of a caption that turn: terms found in it, their meaning in place, and one truth a clause."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

from medrobust.pairs.caption_attack.lexicon import STRENGTH, Lexicon, Sense, Term

NEARBY = 40  # letters to look back for the word before, so that long texts take no quadratic time
_CLAUSE_END = re.compile(r"[.;:!?,()\n]|\b(?:but|however|although|though|while|whereas)\b", re.IGNORECASE)
_NEXT_WORD = re.compile(r"\s+([\w-]+)")
_LAST_WORD = re.compile(r"([\w-]+)\s+$")
_OPENS = re.compile(r"(^|[.;:!?,(])\s*$")
_CLOSES = re.compile(r"\s*($|[.;:!?,)])(?!\s*\d)")
_JOINT = re.compile(r"\s*(?:,|/|,?\s*\b(?:and|or|and/or|vs\.?|versus)\b)\s*(?:the\s+)?", re.IGNORECASE)
_DENIALS = ("denial", "denial of clause")


class FoundTerm(NamedTuple):
    """A term, its place in the caption, and its clause."""

    start: int
    stop: int
    clause: int
    was: str
    term: Term


def find_turning(text: str, lexicon: Lexicon) -> list[FoundTerm]:
    """The terms that the attack replaces, in their order: rules 1, 4 and 6 of caption.py."""
    ends = [end.start() for end in _CLAUSE_END.finditer(text)]
    found = []
    for match in lexicon.pattern.finditer(text):
        clause = bisect_left(ends, match.start())
        term = _meaning(text, match, text[ends[clause - 1] if clause else 0 : match.start()], lexicon)
        if term is not None and term.role != "kept":
            found.append(FoundTerm(match.start(), match.end(), clause, match[0], term))
    joined = {one for pair in pairwise(found) if _opposed(text, *pair) for one in pair}
    turning = []
    for _, clause_terms in groupby((one for one in found if one not in joined), key=lambda one: one.clause):
        turning += _one_truth(list(clause_terms))
    return turning


def _opposed(text: str, first: FoundTerm, second: FoundTerm) -> bool:
    back, forth = (first.term.now, second.was), (second.term.now, first.was)
    opposite = any(now.casefold() == was.casefold() for now, was in (back, forth))
    return opposite and _JOINT.fullmatch(text, first.stop, second.start) is not None


def _meaning(text: str, match: re.Match[str], earlier: str, lexicon: Lexicon) -> Term | None:
    start, stop = match.span()
    word = " ".join(match[0].casefold().split())
    term = lexicon.term(match[0])
    for sense in lexicon.senses.get(word, ()):
        if _fits(sense, text, match, earlier):
            return Term("direction" if sense.now else "kept", "senses", sense.now)
    if word in lexicon.answers and _OPENS.search(text, max(0, start - NEARBY), start) and _CLOSES.match(text, stop):
        return Term("answer", "answers", lexicon.answers[word])
    if term is not None and not term.now and term.role in (*_DENIALS, "follower") and not _NEXT_WORD.match(text, stop):
        return None  # nothing follows that could take its place
    return term


def _fits(sense: Sense, text: str, match: re.Match[str], earlier: str) -> bool:
    follows = _NEXT_WORD.match(text, match.end())
    precedes = _LAST_WORD.search(text, max(0, match.start() - NEARBY), match.start())
    return bool(
        (follows and follows[1].casefold() in sense.before)
        or (precedes and precedes[1].casefold() in sense.after)
        or (sense.earlier and sense.earlier & set(re.findall(r"\w+", earlier.casefold())))
    )


def _one_truth(clause: Sequence[FoundTerm]) -> list[FoundTerm]:
    denials = [one for one in clause if one.term.role in _DENIALS]
    denied = min((one.start for one in denials), default=None)
    whole = any(one.term.role == "denial of clause" for one in denials)

    def strength(one: FoundTerm) -> int | None:
        free = denied is None or (one.start < denied and not whole)
        return STRENGTH.get(one.term.role) if free else None

    strongest = max((found for one in clause if (found := strength(one)) is not None), default=None)
    return [
        one
        for one in clause
        if (one.term.role not in (*STRENGTH, "follower"))
        or (one.term.role in STRENGTH and strength(one) == strongest is not None)
        or (one.term.role == "follower" and denied is not None and one.start > denied)
    ]
