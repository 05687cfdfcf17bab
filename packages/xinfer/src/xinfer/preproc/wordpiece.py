"""BERT's WordPiece for plain ASCII texts, several times faster than going through the library.

Most English texts are printable ASCII. For them cleaning, accents and Chinese characters do not exist, and
tokenising is a regular expression and a dictionary look-up per word. Every other text, and every tokeniser
that is not exactly BERT's, is left to the library: `AsciiWordPiece.encode` answers None.

Source: Y. Wu et al., "Google's Neural Machine Translation System", 2016, section 4.1; longest match first as
in J. Devlin et al., "BERT", 2019 (github.com/google-research/bert, README, "Tokenization").
"""

from __future__ import annotations

import json
import re
from typing import Any

MAX_REMEMBERED = 50_000
"""Words whose pieces are kept: a few megabytes."""

_WORDS = re.compile(r"[0-9A-Za-z]+|[!-/:-@\[-`{-~]")


class AsciiWordPiece:
    """Token numbers of plain ASCII texts. Thread-safe.

    Args:
        vocab: Piece -> number.
        unknown: The number of words that no pieces make up.
        max_word_length: Longer words are unknown.
        lowercase: Whether texts are lowercased.
        before: Numbers in front of every text.
        after: Numbers behind it.
        reserved: Texts that hold one of these are left to the library.
    """

    def __init__(
        self,
        vocab: dict[str, int],
        *,
        unknown: int,
        max_word_length: int,
        lowercase: bool,
        before: list[int],
        after: list[int],
        reserved: list[str],
    ) -> None:
        self._vocab = vocab
        self._unknown = unknown
        self._max_word_length = max_word_length
        self._lowercase = lowercase
        self._before, self._after = before, after
        self._reserved = [token.lower() if lowercase else token for token in reserved]
        self._remembered: dict[str, list[int]] = {}

    @classmethod
    def from_json(cls, data: bytes) -> AsciiWordPiece | None:
        """Reads a `tokenizer.json`.

        Args:
            data: Its content, which the library has accepted.

        Returns:
            The tokeniser; None where the file describes anything that is not exactly BERT's.
        """
        document = json.loads(data)
        model, normalizer = document["model"], document.get("normalizer") or {}
        pre_tokenizer = document.get("pre_tokenizer") or {}
        frame = _frame(document.get("post_processor") or {})
        vocab = model.get("vocab")
        if (
            model.get("type") != "WordPiece"
            or model.get("continuing_subword_prefix") != "##"
            or model.get("unk_token") not in vocab
            or normalizer.get("type") != "BertNormalizer"
            or pre_tokenizer.get("type") != "BertPreTokenizer"
            or frame is None
        ):
            return None
        return cls(
            vocab,
            unknown=vocab[model["unk_token"]],
            max_word_length=model.get("max_input_chars_per_word", 100),
            lowercase=bool(normalizer.get("lowercase")),
            before=frame[0],
            after=frame[1],
            reserved=[token["content"] for token in document.get("added_tokens", ())],
        )

    def encode(self, text: str, max_length: int | None) -> list[int] | None:
        """Token numbers of a text, all of segment 0.

        Args:
            text: Any text.
            max_length: Longest result, special tokens included; None: no limit.

        Returns:
            The numbers, cut off at the end; None where the library has to say.
        """
        if not (text.isascii() and text.isprintable()):
            return None
        if self._lowercase:
            text = text.lower()
        for token in self._reserved:
            if token in text:
                return None
        ids = self._before.copy()
        limit = None if max_length is None else max_length - len(self._after)
        vocab, remembered = self._vocab, self._remembered
        for word in _WORDS.findall(text):
            number = vocab.get(word)
            if number is not None:
                ids.append(number)
            else:
                ids += remembered.get(word) or self._pieces(word)
            if limit is not None and len(ids) >= limit:
                del ids[limit:]
                break
        return ids + self._after

    def _pieces(self, word: str) -> list[int]:
        found = self._split(word)
        if len(self._remembered) < MAX_REMEMBERED:
            self._remembered[word] = found
        return found

    def _split(self, word: str) -> list[int]:
        if len(word) > self._max_word_length:
            return [self._unknown]
        vocab, found, start = self._vocab, [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = word[start:end]
                number = vocab.get("##" + piece if start else piece)
                if number is not None:
                    found.append(number)
                    start = end
                    break
            else:
                return [self._unknown]
        return found


def _frame(processor: dict[str, Any]) -> tuple[list[int], list[int]] | None:
    """What stands before and behind a single text, where all of it is of segment 0."""
    if processor.get("type") == "BertProcessing":
        return [processor["cls"][1]], [processor["sep"][1]]
    if processor.get("type") != "TemplateProcessing":
        return None
    before: list[int] = []
    after: list[int] = []
    seen = False
    for part in processor["single"]:
        ((kind, item),) = part.items()
        if item["type_id"] != 0 or (kind == "Sequence" and (seen or item["id"] != "A")):
            return None
        if kind == "Sequence":
            seen = True
        else:
            (after if seen else before).extend(processor["special_tokens"][item["id"]]["ids"])
    return (before, after) if seen else None
