"""The attack on captions: body parts are swapped and key words turned into their opposites.

The caption half of the multi-modal attack in RAN: Han et al., Findings of EMNLP 2024, arXiv 2407.02716. The paper
rewrites captions with a language model; the lexicon and the rules here are ours, and need neither network nor chance.

1. The longest entry at a word boundary wins; part of a word, or the text after a hyphen in one, is never touched.
2. A body part becomes another one of its group, the same throughout the caption and never one that the caption names
   already, as far as the group reaches. Which one is fixed by SHA-256 of seed, caption and word.
3. Directions (left, upper, distal) turn into their opposites, all at once.
4. What says what is true turns once a clause, for two turns cancel: "no abnormal mass" must not become "a normal
   mass". A clause ends at punctuation or "but". What a denial denies does not turn, as the denial goes; of the
   rest, words of presence do (absent), where there are none, of degree (increased), and else of state (enlarged).
5. "no effusion" becomes "an effusion" where the noun counts single things, "no oedema" becomes "oedema", "without"
   becomes "with", "is not" becomes "is". No denial is ever put in, except as an opposite.
6. What would only change places stays: a word joined to its own opposite ("left or right"), a group named in full.
7. Capitals and plurals stay, and a or an is mended where it was right before.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from medrobust.errors import DataError
from medrobust.pairs.caption_attack.clauses import NEARBY, FoundTerm, find_turning
from medrobust.pairs.caption_attack.lexicon import DETERMINERS, Lexicon, load_lexicon
from medrobust.pairs.caption_attack.wording import article_for, head_noun, in_case_of

_ARTICLE = re.compile(r"(?<![\w'’-])(an?)\s+$", re.IGNORECASE)


class Change(NamedTuple):
    """A replacement at `start` of the old caption: the old text and the new one."""

    start: int
    was: str
    now: str


@dataclass(frozen=True)
class AttackedCaption:
    """A caption after the attack; all but the changes, given in order, is as it was."""

    text: str
    changed: tuple[Change, ...]

    @property
    def unchanged(self) -> bool:
        """True where the attack found nothing to change."""
        return not self.changed


@dataclass(frozen=True)
class CaptionReport:
    """Captions after the attack in their order, and the changes of each; none where a caption could not be attacked."""

    captions: tuple[str, ...]
    changes: tuple[tuple[Change, ...], ...]

    @property
    def changed(self) -> int:
        """The number of captions that differ from what they were."""
        return sum(bool(changes) for changes in self.changes)

    @property
    def unchanged(self) -> int:
        """The number of captions that came back as they were."""
        return len(self.captions) - self.changed

    @property
    def share(self) -> float:
        """The share of captions that were changed; nan for none."""
        return self.changed / len(self.captions) if self.captions else float("nan")


def attack_captions(
    captions: Iterable[object],
    rewrite: Callable[[str], str] | None = None,
    *,
    lexicon: Lexicon | None = None,
    seed: int = 0,
) -> CaptionReport:
    """Every caption attacked: by the lexicon, or by a function of the user, such as a call of a language model.

    A caption counts as unchanged where nothing in it is known, or where `rewrite` gives no text, an empty one or the
    same again. Blank captions are not given to `rewrite`, and its errors are not caught. Raises DataError, with the
    caption's number, for a caption that is not text.

    >>> report = attack_captions(["right lung", "Figure 2"])
    >>> report.captions, report.unchanged, report.share
    (('left kidney', 'Figure 2'), 1, 0.5)
    >>> attack_captions(["right lung"], lambda caption: caption.replace("lung", "knee")).captions
    ('right knee',)
    """
    if isinstance(captions, str):
        raise DataError("captions is one text, expected several; put it in a list")
    known = load_lexicon() if lexicon is None else lexicon
    attacked = []
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise DataError(f"caption {index} is {caption!r}, expected text; leave out images that have none")
        attacked.append(attack_caption(caption, known, seed=seed) if rewrite is None else _rewritten(caption, rewrite))
    return CaptionReport(tuple(one.text for one in attacked), tuple(one.changed for one in attacked))


def attack_caption(text: str, lexicon: Lexicon | None = None, *, seed: int = 0) -> AttackedCaption:
    """A caption that no longer fits its image, by the rules at the head of this file; the same on every machine.

    It is unchanged where the lexicon (by default `load_lexicon()`) knows none of its words.

    >>> attack_caption("No pleural effusion. The LEFT lung is clear.").text
    'A peritoneal effusion. The RIGHT kidney is opacified.'
    >>> attack_caption("Large hypodense lesion in the liver").changed[0]
    Change(start=0, was='Large', now='Small')
    >>> attack_caption("Abbildung 3").unchanged
    True
    """
    known = load_lexicon() if lexicon is None else lexicon
    turning = find_turning(text, known)
    places = _places(turning, text, known, seed)
    changes = [change for found in turning if (change := _change(found, text, known, places)) is not None]
    changes = _with_capitals(text, _with_articles(text, changes))
    return AttackedCaption(_applied(text, changes), tuple(changes))


def _rewritten(caption: str, rewrite: Callable[[str], str]) -> AttackedCaption:
    answer: object = rewrite(caption) if caption.strip() else None
    if not isinstance(answer, str) or answer.strip() in ("", caption.strip()):
        return AttackedCaption(caption, ())
    return AttackedCaption(answer, (Change(0, caption, answer),))


def _places(turning: Sequence[FoundTerm], text: str, lexicon: Lexicon, seed: int) -> dict[tuple[str, int], int]:
    """The member of its group that each body part becomes."""
    named: dict[str, list[int]] = {}
    for found in turning:
        if found.term.role == "body part" and found.term.place not in named.setdefault(found.term.group, []):
            named[found.term.group].append(found.term.place)
    places: dict[tuple[str, int], int] = {}
    for group, here in named.items():
        members = lexicon.groups[group]
        others = [place for place in range(len(members)) if place not in here]
        others.sort(key=lambda place: sha256(f"{seed}\x1f{text}\x1f{members[place].one}".encode()).digest())
        if others:
            places |= {(group, was): now for was, now in zip(here, [*others, *here], strict=False)}
    return places


def _change(found: FoundTerm, text: str, lexicon: Lexicon, places: Mapping[tuple[str, int], int]) -> Change | None:
    term, now = found.term, found.term.now
    if term.role == "body part":
        if (term.group, term.place) not in places:
            return None
        forms = lexicon.groups[term.group][places[term.group, term.place]]
        now = forms.many if term.plural and forms.many else forms.one
    elif term.group == DETERMINERS and head_noun(text, found.stop, lexicon.ends) in lexicon.countable:
        now = "a"
    if not now:
        space = len(text[found.stop :]) - len(text[found.stop :].lstrip())
        return Change(found.start, text[found.start : found.stop + space], "")
    return Change(found.start, found.was, in_case_of(found.was, now))


def _with_articles(text: str, changes: Sequence[Change]) -> list[Change]:
    """The changes, and those of a and an that were right before the old word and are not before the new one."""
    shouted = text.isupper()
    done: list[Change] = []
    tail, cut = "", len(text)
    for change in reversed(changes):
        tail = text[change.start + len(change.was) : cut] + tail
        if change.now.casefold() == "a":
            article = article_for(tail, shouted=shouted)
            change = change._replace(now=article.upper() if shouted else in_case_of(change.now, article))
        done.append(change)
        tail, cut = change.now + tail, change.start
        before = _ARTICLE.search(text, max(0, cut - NEARBY), cut)
        right = article_for(tail, shouted=shouted)
        if before and right != before[1].lower() == article_for(text[cut:], shouted=shouted):
            now = right.upper() if shouted else in_case_of(before[1], right)
            done.append(Change(before.start(1), before[1], now))
            tail, cut = now + text[before.end(1) : cut] + tail, before.start(1)
    return done[::-1]


def _with_capitals(text: str, changes: Sequence[Change]) -> list[Change]:
    """The changes, where a word that goes leaves its capital to the next one."""
    done: list[Change] = []
    for change in changes:
        last = done[-1] if done else None
        if last and not last.now and last.was[0].isupper() and last.start + len(last.was) == change.start:
            done[-1] = Change(last.start, last.was + change.was, change.now[:1].upper() + change.now[1:])
        else:
            done.append(change)
    for index, change in enumerate(done):
        if not change.now and change.was[0].isupper():
            stop = change.start + len(change.was)
            done[index] = Change(change.start, change.was + text[stop : stop + 1], text[stop : stop + 1].upper())
    return done


def _applied(text: str, changes: Sequence[Change]) -> str:
    parts, place = [], 0
    for change in changes:
        parts += [text[place : change.start], change.now]
        place = change.start + len(change.was)
    return "".join([*parts, text[place:]])
