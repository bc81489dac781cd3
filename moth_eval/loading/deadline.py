"""A limit on the time that opening a model file may take."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..errors import RefusedFile

OPENING_SECONDS = 600.0
"""For reading a file into a network, and again for its first run; the largest take minutes."""

_AGAIN_SECONDS = 5.0


@contextmanager
def in_time(what: str) -> Iterator[None]:
    """While it lasts, work in the main thread is ended when it takes too long.

    Single operations of torch are not interrupted; what they may take is bounded beforehand. In
    other threads Python has no way to end work, and there is no limit.

    Args:
        what: is done, for the message.

    Raises:
        RefusedFile: it took more than `OPENING_SECONDS`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seconds = OPENING_SECONDS

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise RefusedFile(f"{what} took more than {seconds:g} s; no honest model does")

    before = signal.signal(signal.SIGALRM, end)
    # Repeated, since whoever catches everything may catch the first.
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
