"""Options that hold several values, parted by commas."""

from __future__ import annotations

from .errors import InputError

NONE = "none"
"""What an option says that asks for nothing."""


def words(text: str) -> tuple[str, ...]:
    """The parts, without blanks around them; nothing for `none`."""
    return () if text.strip() == NONE else tuple(word.strip() for word in text.split(","))


def number(option: str, text: str) -> int:
    """A whole number from 0 on.

    Raises:
        InputError: it is none; the message names the option.
    """
    if not text.strip().isdecimal():
        raise InputError(f"{option}: expected whole numbers such as 1,2,3, got {text!r}")
    return int(text)


def pair(option: str, text: str) -> tuple[int, int]:
    """Source and target class, from `0-1`.

    Raises:
        InputError: it is none; the message names the option.
    """
    source, dash, target = text.partition("-")
    if not dash:
        raise InputError(f"{option}: expected SOURCE-TARGET such as 0-1, got {text!r}")
    return number(option, source), number(option, target)


def fraction(option: str, text: str) -> float:
    """A number such as `0.5` or `8/255`.

    Raises:
        InputError: it is none; the message names the option.
    """
    above, stroke, below = text.partition("/")
    try:
        return float(above) / float(below) if stroke else float(above)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{option}: expected numbers such as 0.5 or 8/255, got {text!r}") from None
