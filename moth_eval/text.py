"""Text that others chose, and figures, made fit to be shown; and names of files made of such."""

from __future__ import annotations

import hashlib
import re
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


def visible_lines(text: str) -> str:
    """Text of several lines that stay as they are, but for characters that act on a terminal."""
    return "\n".join("".join(map(_shown, line)) for line in text.split("\n"))


def markdown(text: str) -> str:
    """The text as Markdown shows it literally, in a heading, a list or a cell of a table."""
    return re.sub(r"([\\`*_\[\]<>|&~])", r"\\\1", visible(text))


def markdown_code(text: str) -> str:
    """The text as code of Markdown, also in a cell of a table; backticks become quotes."""
    return f"`{visible(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def percent(fraction: float) -> str:
    """`33 %`; two digits below 10 %."""
    value = 100 * fraction
    return f"{value:.0f} %" if value >= 10 else f"{value:.2g} %"


def file_name(text: str) -> str:
    """A name that is safe as a file name: other characters become `_`, long ones are hashed."""
    safe = "".join(c if c.isalnum() or c in "-_.=" else "_" for c in text).lstrip(".")
    if safe == text and len(safe.encode()) <= 100:
        return safe
    short = safe.encode()[:80].decode(errors="ignore")
    return f"{short}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"
