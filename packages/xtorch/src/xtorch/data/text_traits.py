"""What can be seen in a text without a model: language, script, markup, damage, things that identify."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

_HTML = re.compile(
    r"</?(a|b|i|p|br|div|span|li|ul|ol|td|tr|table|img|h[1-6]|strong|em|html|body|font)\b[^>]*>", re.I
)
_ENTITY = re.compile(r"&(?:[a-z]{2,8}|#\d{2,5});|(?<![\w&])#\d{2,4};", re.I)
# UTF-8 that was read as Windows-1252: a letter with two bytes shows as two.
_MOJIBAKE = re.compile("[\u00c2\u00c3][\u0080-\u00bf\u0152-\u0178\u2018-\u2122]|\u00e2\u20ac|\ufffd")
_IDENTIFIER = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"  # a UUID
    r"|\b[\w.+-]+@[\w-]+\.[\w.]+\b"  # an e-mail address
    r"|(?<!\d)\+?\d[\d\s()/-]{8,}\d(?!\d)"  # a telephone or account number
    r"|\b(?=\w*\d)(?=\w*[A-Z])[A-Z0-9]{8,}\b",  # an order's or a part's number
    re.I,
)
_HIDDEN = re.compile(
    "[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]"
)
#: The most frequent short words that few of the other languages have.
_COMMON_WORDS = {
    "English": "the and is of to in that it for was with you this are have not what from how my",
    "German": "der die und das ist nicht ich mit den von ein eine auf für sich dem auch wie",
    "French": "le les et des est une pas que pour dans qui sur vous je avec mais du au",
    "Spanish": "el los las y una que por con para se del es como pero muy más su",
    "Italian": "il di che è un per non sono una con della del gli anche ma come più",
    "Portuguese": "o os que não uma para com em do da dos mas como muito você são",
    "Dutch": "het een van en niet dat zijn voor met op aan ook maar naar deze",
}
_WORDS_TO_LANGUAGES: dict[str, list[str]] = {}
for _language, _words in _COMMON_WORDS.items():
    for _word in _words.split():
        _WORDS_TO_LANGUAGES.setdefault(_word, []).append(_language)
_WORD = re.compile(r"[^\W\d_]+")


def has_markup(text: str) -> bool:
    """HTML tags, or entities that were not turned into characters."""
    return bool(_HTML.search(text) or _ENTITY.search(text))


def is_damaged(text: str) -> bool:
    """Characters that were decoded wrongly (``Ã©`` for ``é``) or lost."""
    return bool(_MOJIBAKE.search(text))


def identifies(text: str) -> bool:
    """E-mail addresses, telephone, account or order numbers, UUIDs."""
    return bool(_IDENTIFIER.search(text))


def has_hidden_characters(text: str) -> bool:
    """Control characters, zero-width spaces and marks of direction."""
    return bool(_HIDDEN.search(text))


def has_no_words(text: str) -> bool:
    """Nothing but digits, punctuation and emoji."""
    return not any(character.isalpha() for character in text)


def script_of(text: str) -> str | None:
    """The script that most letters are of, such as ``Latin`` or ``Chinese``; None without letters."""
    counts: Counter[str] = Counter()
    for character in text[:400]:
        if character.isascii():
            if character.isalpha():
                counts["LATIN"] += 1
        elif character.isalpha():
            name = unicodedata.name(character, "")
            counts["CJK" if name.startswith("CJK") else name.split(" ")[0]] += 1
    if not counts:
        return None
    script = counts.most_common(1)[0][0]
    return {"CJK": "Chinese or Japanese", "HIRAGANA": "Japanese", "KATAKANA": "Japanese"}.get(
        script, script.capitalize()
    )


def language_of(text: str) -> str | None:
    """The language of a Latin text by its short words; None where these do not say.

    A rough guess, meant for the languages of many texts: one text's may be wrong.
    """
    found: Counter[str] = Counter()
    for word in _WORD.findall(text[:1000].casefold()):
        for language in _WORDS_TO_LANGUAGES.get(word, ()):
            found[language] += 1
    ranked = found.most_common(2)
    if not ranked or ranked[0][1] < 2 or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def languages(texts: Iterable[str]) -> Counter[str]:
    """Languages of Latin texts and scripts of others, with how many texts are of each."""
    counts: Counter[str] = Counter()
    for text in texts:
        script = script_of(text)
        name = language_of(text) if script == "Latin" else script
        if name is not None:
            counts[name] += 1
    return counts
