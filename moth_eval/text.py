"""Text that others chose, made fit to be shown."""

from __future__ import annotations

import unicodedata

_HIDDEN = ("Cc", "Cf", "Co", "Cs")


def visible(text: str) -> str:
    r"""The text on one line, characters that act on a terminal or reorder text spelled out.

    A model's name is chosen by whoever made it: an escape sequence or a right-to-left override in
    it becomes `\x1b` or `\u202e`.
    """
    return "".join(_shown(c) for c in " ".join(text.split()))


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN:
        return character
    return character.encode("unicode_escape").decode("ascii")
