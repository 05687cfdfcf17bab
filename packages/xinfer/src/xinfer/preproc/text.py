"""Texts into token numbers, with the tokeniser that the model was trained with (`tokenizer.json`).

Legend: B texts, W windows, T tokens (special tokens and padding included).

The ``tokenizers`` library (extra "text") does the work: conversions of it into graphs have turned "éclair"
into [UNK]. This module sets truncation and padding once, so that a tokeniser can be shared by threads,
and returns arrays.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from xinfer._extras import require
from xinfer.errors import DocumentError, InputError
from xinfer.preproc.wordpiece import AsciiWordPiece

_Row = tuple[list[int], list[int] | int]
"""Token numbers and their segments, or the one segment of all of them."""


@dataclass(frozen=True, kw_only=True)
class TokenWindows:
    """Texts cut into windows that a model can take, with the way back to their characters.

    Attributes:
        feeds: `input_ids`, `attention_mask`, `token_type_ids`, each int64 [W,T].
        text_index: int64 [W], which text a window is of.
        offsets: int64 [W,T,2], the characters start..end of each token in its text; 0..0 for special tokens
            and padding.
        sequence: int64 [W,T], 0 for tokens of the text (or of the first of a pair), 1 for the second of a
            pair, -1 for special tokens and padding.
        words: int64 [W,T], number of the word that a token is of, -1 for special tokens and padding.
    """

    feeds: dict[str, np.ndarray]
    text_index: np.ndarray
    offsets: np.ndarray
    sequence: np.ndarray
    words: np.ndarray


class Tokenizer:
    """Turns texts into arrays of token numbers. Thread-safe.

    Args:
        data: Content of a `tokenizer.json`.
        max_length: Longest sequence in tokens, special tokens included; the rest is cut off at the end. None:
            what the file says, or no limit.
        padding: "longest" pads a batch to its longest text, "max_length" always to `max_length`.
        pad_to_multiple_of: Rounds the padded length up (never beyond `max_length`), for engines that are
            faster at a few fixed lengths.

    Raises:
        MissingExtraError: `tokenizers` is not installed.
        DocumentError: `data` is not a tokeniser.
        InputError: The lengths do not fit.
    """

    def __init__(
        self,
        data: bytes,
        *,
        max_length: int | None = None,
        padding: Literal["longest", "max_length"] = "longest",
        pad_to_multiple_of: int = 1,
    ) -> None:
        self._data = bytes(data)
        self._tokenizer = self._load()
        truncation, pads = self._tokenizer.truncation or {}, self._tokenizer.padding or {}
        self.max_length: int | None = max_length or truncation.get("max_length")
        if padding not in ("longest", "max_length"):
            raise InputError(f"padding must be 'longest' or 'max_length', not {padding!r}", value=padding)
        if padding == "max_length" and self.max_length is None:
            raise InputError("padding to max_length needs a max_length", hint="give max_length")
        if pad_to_multiple_of < 1:
            raise InputError(
                f"pad_to_multiple_of must be positive, not {pad_to_multiple_of}", value=pad_to_multiple_of
            )
        num_special = self._tokenizer.num_special_tokens_to_add(True)
        if self.max_length is not None and self.max_length <= num_special:
            # The library would not cut off at all then.
            raise InputError(
                f"max_length must be over {num_special}, the special tokens of a pair, not {self.max_length}",
                value=self.max_length,
            )
        self.padding = padding
        self.pad_to_multiple_of = pad_to_multiple_of
        self._pad_left = pads.get("direction") == "left"
        self._pad_type = int(pads.get("pad_type_id", 0))
        self._pad_id = int(pads["pad_id"]) if pads else self._find_pad_id()
        self._configure(self._tokenizer, stride=0, strategy="longest_first")
        self._ascii = AsciiWordPiece.from_json(self._data)
        self._windowed = lru_cache(maxsize=8)(self._make_windowed)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **options: Any) -> Tokenizer:
        """Reads a `tokenizer.json`; options as in the constructor.

        Raises:
            InputError: The file cannot be read, or the lengths do not fit.
            DocumentError: It is not a tokeniser.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {os.fspath(path)!r}: {error.strerror}", value=str(path)) from error
        return cls(data, **options)

    @classmethod
    def from_bytes(cls, data: bytes, **options: Any) -> Tokenizer:
        """The same from the file's content, as `InferenceEngine.asset` gives it."""
        return cls(data, **options)

    def encode_batch(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Texts as arrays; what is over `max_length` is cut off, of a pair from the longer text.

        Args:
            texts: The texts, or the first texts of pairs.
            pairs: The second texts, as many.

        Returns:
            `input_ids`, `attention_mask` and `token_type_ids`, each int64 [B,T].

        Raises:
            InputError: No texts, something that is no text, or as many firsts as seconds are missing.
        """
        inputs = _inputs(texts, pairs)
        rows: list[_Row | None] = [None] * len(inputs)
        if self._ascii is not None and pairs is None:
            for index, text in enumerate(texts):
                ids = self._ascii.encode(text, self.max_length)
                rows[index] = None if ids is None else (ids, 0)
        left = [index for index, row in enumerate(rows) if row is None]
        if left:
            # The fast form leaves out offsets.
            encode = self._tokenizer.encode_batch_fast
            for index, found in zip(left, self._encode(encode, [inputs[i] for i in left]), strict=True):
                rows[index] = (found.ids, found.type_ids)
        return self._arrays([row for row in rows if row is not None])

    def encode_windows(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, stride: int = 0
    ) -> TokenWindows:
        """Texts as windows of at most `max_length` tokens, with offsets: for entities and answers.

        Args:
            texts: The texts; or, with `pairs`, the questions, which stand whole in every window.
            pairs: The texts that the questions are about, which are cut into windows.
            stride: Tokens that neighbouring windows share.

        Returns:
            The windows, those of one text next to each other and in its order.

        Raises:
            InputError: As in `encode_batch`; or a window has no room for more than `stride` tokens.
        """
        inputs = _inputs(texts, pairs)
        if stride < 0:
            raise InputError(f"stride must not be negative, not {stride}", value=stride)
        if self.max_length is not None:
            room = self.max_length - self._tokenizer.num_special_tokens_to_add(pairs is not None)
            if pairs is not None:
                questions = self._encode(
                    self._windowed(0, "bare").encode_batch_fast, list(texts), special=False
                )
                room -= max(len(question.ids) for question in questions)
            if room <= stride:
                raise InputError(
                    f"a window has room for {max(room, 0)} tokens of text, and {stride} of them are shared",
                    value=stride,
                    hint="lower the stride, raise max_length or shorten the question",
                )
        tokenizer = self._windowed(stride, "longest_first" if pairs is None else "only_second")
        found = self._encode(tokenizer.encode_batch, inputs)
        windows = [(index, part) for index, whole in enumerate(found) for part in (whole, *whole.overflowing)]
        encodings = [part for _, part in windows]
        feeds = self._arrays([(part.ids, part.type_ids) for part in encodings])
        shape = feeds["input_ids"].shape
        offsets_WT2 = np.zeros((*shape, 2), np.int64)
        sequence_WT, words_WT = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
        for row, encoding in enumerate(encodings):
            where = self._where(len(encoding.ids), shape[1])
            offsets_WT2[row, where] = encoding.offsets
            sequence_WT[row, where] = [-1 if item is None else item for item in encoding.sequence_ids]
            words_WT[row, where] = [-1 if item is None else item for item in encoding.word_ids]
        offsets_WT2[sequence_WT < 0] = 0
        return TokenWindows(
            feeds=feeds,
            text_index=np.array([index for index, _ in windows], np.int64),
            offsets=offsets_WT2,
            sequence=sequence_WT,
            words=words_WT,
        )

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Token numbers as text, special tokens left out."""
        return str(self._tokenizer.decode([int(number) for number in ids], skip_special_tokens=True))

    def _arrays(self, rows: list[_Row]) -> dict[str, np.ndarray]:
        length = self._length(max(len(ids) for ids, _ in rows))
        ids_BT = np.full((len(rows), length), self._pad_id, np.int64)
        mask_BT = np.zeros((len(rows), length), np.int64)
        types_BT = np.full((len(rows), length), self._pad_type, np.int64)
        for row, (ids, types) in enumerate(rows):
            where = self._where(len(ids), length)
            ids_BT[row, where] = ids
            mask_BT[row, where] = 1
            types_BT[row, where] = types
        return {"input_ids": ids_BT, "attention_mask": mask_BT, "token_type_ids": types_BT}

    def _length(self, longest: int) -> int:
        if self.padding == "max_length":
            assert self.max_length is not None
            return self.max_length
        length = -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of
        return length if self.max_length is None else min(length, self.max_length)

    def _where(self, count: int, length: int) -> slice:
        return slice(length - count, length) if self._pad_left else slice(count)

    @staticmethod
    def _encode(encode: Any, inputs: list[Any], *, special: bool = True) -> list[Any]:
        try:
            return list(encode(inputs, add_special_tokens=special))
        except TypeError as error:
            # What no UTF-8 can hold: half of a surrogate pair, left by cutting UTF-16 text apart.
            raise InputError(
                f"a text cannot be encoded: {error}", hint="texts must be valid Unicode"
            ) from error

    def _load(self) -> Any:
        tokenizers = require("tokenizers", "text")
        try:
            return tokenizers.Tokenizer.from_buffer(self._data)
        except ValueError as error:
            raise DocumentError(f"this is not a tokenizer.json: {error}") from error

    def _find_pad_id(self) -> int:
        candidates = (self._tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>", "<|endoftext|>"))
        # The mask hides padding, so any number that the embedding has will do.
        return next((number for number in candidates if number is not None), 0)

    def _configure(self, tokenizer: Any, *, stride: int, strategy: str) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if self.max_length is not None:
            tokenizer.enable_truncation(self.max_length, stride=stride, strategy=strategy, direction="right")

    def _make_windowed(self, stride: int, strategy: str) -> Any:
        tokenizer = self._load()
        if strategy == "bare":
            tokenizer.no_padding()
            tokenizer.no_truncation()
        else:
            self._configure(tokenizer, stride=stride, strategy=strategy)
        return tokenizer


def _inputs(texts: Sequence[str], pairs: Sequence[str] | None) -> list[Any]:
    if isinstance(texts, str) or isinstance(pairs, str):
        raise InputError("texts must be a list of texts, not one text", hint="put it in a list")
    if not texts:
        raise InputError("there are no texts", value=0)
    for text in (*texts, *(pairs or ())):
        if not isinstance(text, str):
            raise InputError(f"a text must be a str, not {type(text).__name__}", value=text)
    if pairs is None:
        return list(texts)
    if len(pairs) != len(texts):
        raise InputError(f"{len(texts)} texts and {len(pairs)} second texts make no pairs", value=len(pairs))
    return list(zip(texts, pairs, strict=True))
