"""Small rules of written English: capitals, a or an, and the end of a noun phrase."""

import re
from collections.abc import Collection

_CONSONANT_SOUND = re.compile(r"(uni(?!n)|ure|uri|ute|use|eu|one\b)")
_LETTERS_SAID_WITH_A_VOWEL = frozenset("AEFHILMNORSX")
_WORD = re.compile(r"\s+([\w'’-]+)")


def in_case_of(was: str, now: str) -> str:
    """The new words with the capitals of the old ones.

    >>> in_case_of("LUNG", "kidney"), in_case_of("Optic Nerve", "vagus nerve"), in_case_of("Left", "right")
    ('KIDNEY', 'Vagus Nerve', 'Right')
    """
    words = was.split()
    if was.isupper() and len(was) > 1:
        return now.upper()
    if len(words) > 1 and all(word[0].isupper() for word in words):
        return " ".join(word[:1].upper() + word[1:] for word in now.split(" "))
    return now[:1].upper() + now[1:] if was[:1].isupper() else now


def article_for(text: str, *, shouted: bool = False) -> str:
    """The article that the beginning of a text takes; in a text all in capitals, they do not mean an abbreviation.

    >>> [article_for(words) for words in ("eye", "uterus", "ulna", "MCA infarct", "CT scan", "ureter")]
    ['an', 'a', 'an', 'an', 'a', 'a']
    """
    word = re.match(r"\w*", text.lstrip())[0]  # type: ignore[index]  # it always matches
    if len(word) > 1 and word.isupper() and not shouted:
        return "an" if word[0] in _LETTERS_SAID_WITH_A_VOWEL else "a"
    word = word.lower()
    return "an" if word[:1] in tuple("aeiou") and not _CONSONANT_SOUND.match(word) else "a"


def head_noun(text: str, start: int, ends: Collection[str]) -> str:
    """The last word of the noun phrase that begins at a place of a text.

    >>> head_noun("no large pleural effusion is seen", 2, {"is"})
    'effusion'
    """
    head = ""
    while found := _WORD.match(text, start):
        word = found[1].casefold()
        if word in ends:
            break
        head, start = word, found.end()
    return head
