"""Which relative paths are allowed on the wire and on disk."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath

from ignition_client.errors import UnsafePathError

MAX_PATH_LENGTH = 1024
MAX_NAME_BYTES = 255

_WINDOWS_DEVICES = {"con", "prn", "aux", "nul"} | {
    f"{name}{i}" for name in ("com", "lpt") for i in range(1, 10)
}


def safe_relative_path(path: str) -> str:
    """Accepts a path that stays below its folder on every operating system.

    Args:
        path: POSIX path, e.g. ``ok/img 01.jpg``.

    Returns:
        The same path in Unicode NFC, so that one file has one name whatever system it came from.

    Raises:
        UnsafePathError: empty or too long, absolute, with ``.``/``..``/empty parts, backslashes, colons
            (drives, alternate streams), control characters, or a name that Windows reserves.
    """
    normal = unicodedata.normalize("NFC", path)
    if not normal or len(normal) > MAX_PATH_LENGTH:
        raise UnsafePathError(f"A path has 1 to {MAX_PATH_LENGTH} characters.", value=path[:100])
    parts = normal.split("/")
    for part in parts:
        if part in ("", ".", ".."):
            raise UnsafePathError("The path has an empty, '.' or '..' part.", value=path)
        if len(part.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
            raise UnsafePathError(f"A name is longer than {MAX_NAME_BYTES} bytes.", value=path[:100])
        if any(char in "\\:" or unicodedata.category(char) in ("Cc", "Cs") for char in part):
            raise UnsafePathError("The path has a character that is not allowed.", value=ascii(path))
        if part.split(".")[0].strip().lower() in _WINDOWS_DEVICES or part.endswith((".", " ")):
            raise UnsafePathError("The path has a name that Windows cannot store.", value=path)
    return str(PurePosixPath(*parts))
