from __future__ import annotations

import pytest

from ignition_client.errors import UnsafePathError
from ignition_client.paths import safe_relative_path


@pytest.mark.parametrize(
    "path", ["a", "ok/1.jpg", "ok/sub folder/ä (1).JPG", "a/b.c/d-e_f", "...x", "日本/图.png"]
)
def test_safe_relative_path_accepts_ordinary_names(path: str) -> None:
    assert safe_relative_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "/etc/passwd", "..", "../a", "a/../b", "a/./b", "./a", "a//b", "a/", "C:/x", "a\\b", "a:b",
        "nul", "con.txt", "a/LPT1.jpg", "a\x00b", "a\nb", "trailing.", "trailing ", "x" * 1025, "ü" * 200,
        "a/" + "b" * 256, "bad\udc80",
    ],
)  # fmt: skip
def test_safe_relative_path_refuses_what_could_escape_or_not_be_stored(path: str) -> None:
    with pytest.raises(UnsafePathError) as caught:
        safe_relative_path(path)
    assert caught.value.code == "client.unsafe_path"
    assert caught.value.hint


def test_safe_relative_path_normalises_unicode() -> None:
    assert safe_relative_path("ok/a\u0308.jpg") == "ok/ä.jpg"
