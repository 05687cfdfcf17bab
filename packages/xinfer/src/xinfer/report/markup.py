"""HTML without a template engine: text is escaped unless it was made here."""

from __future__ import annotations

import html


class Markup(str):
    """A text that is HTML already."""

    __slots__ = ()


EMPTY = Markup("")
_VOID = frozenset({"meta", "br", "rect", "line", "circle"})


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """One element.

    Args:
        name: The element's.
        children: Markup stands as it is, None is left out, everything else is escaped.
        attributes: ``class_`` becomes ``class``, ``data_label`` becomes ``data-label``; None is left out.

    Returns:
        The element as HTML.
    """
    opening = name + "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{opening}/>")
    return Markup(f"<{opening}>{join(*children)}</{name}>")


def join(*children: object) -> Markup:
    """Children one after the other, as `tag` takes them."""
    return Markup("".join(_text(child) for child in children))


def _text(child: object) -> str:
    if child is None:
        return ""
    return str(child) if isinstance(child, Markup) else html.escape(str(child))
