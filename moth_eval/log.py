"""What the program tells while it works: Python's own logging, as text or as JSON lines.

Every record of ours may carry figures: `log.info("scanned", extra=figures(model=..., score=...))`.
As text they follow the message as `name=value`; as JSON they are fields of the line.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args
from weakref import WeakSet

from .errors import InputError
from .text import visible, visible_lines

ROOMS = ("moth_eval", "scanners", "attacks", "benchmarks", "reports")
"""Loggers that are ours; other libraries keep their own."""

Level = Literal["debug", "info", "warning", "error"]
Form = Literal["text", "json"]

LEVELS: tuple[Level, ...] = get_args(Level)
FORMS: tuple[Form, ...] = get_args(Form)


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """What is told, and in which form.

    Attributes:
        level: the least important records that are told.
        form: `text` for people, `json` for programs: one object per line.
        to: where else records go: `NAME:TARGET`, such as `tensorboard:runs/curves`.
    """

    level: Level = "warning"
    form: Form = "text"
    to: tuple[str, ...] = ()


_CURRENT: ContextVar[LogSettings | None] = ContextVar("log_settings", default=None)


def current_settings() -> LogSettings:
    """The settings of this process, for the processes that it starts."""
    return _CURRENT.get() or LogSettings()


HANDLERS: Mapping[str, str] = {"tensorboard": "moth_eval.tensorboard_log:TensorBoardHandler"}
"""Where records can go: name -> `"module:factory"`; called with what follows the name."""

ENTRY_POINTS = "moth_eval.log_handlers"
"""Where other distributions add to them."""


def configure(settings: LogSettings) -> None:
    """Tell what the settings say on the standard error stream and elsewhere, from now on.

    Raises:
        InputError: no such place is known, or it cannot be written to.
    """
    handlers: list[logging.Handler] = [_Handler()]
    handlers[0].setFormatter(JsonLines() if settings.form == "json" else Text())
    handlers += [_elsewhere(place) for place in settings.to]
    _CURRENT.set(settings)
    gone = set()
    for room in ROOMS:
        logger = logging.getLogger(room)
        logger.setLevel(settings.level.upper())
        for old in [h for h in logger.handlers if h in _OURS]:
            logger.removeHandler(old)
            gone.add(old)
        for handler in handlers:
            logger.addHandler(handler)
    for old in gone:
        old.close()
    _OURS.update(handlers)


_OURS: WeakSet[logging.Handler] = WeakSet()
"""Every handler of this process that `configure` made and that is still about."""


def _elsewhere(place: str) -> logging.Handler:
    from .plugins import resolve

    name, _, target = place.partition(":")
    made = resolve(name, HANDLERS, ENTRY_POINTS)(target)
    if not isinstance(made, logging.Handler):
        raise InputError(f"--log-to {name}: expected a handler of logging, got {made!r}")
    return made


def figures(**values: Any) -> dict[str, dict[str, Any]]:
    """For the `extra` of a record: figures that belong to it."""
    return {"figures": values}


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the standard error stream as it is at the time."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class Text(logging.Formatter):
    """One line per record, nothing in which acts on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        at = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        values = "".join(f"  {k}={_short(v)}" for k, v in _figures(record).items())
        line = visible(f"{record.levelname.lower()} {record.name}: {record.getMessage()}{values}")
        error = self.formatException(record.exc_info) if record.exc_info else ""
        return visible_lines(f"{at} {line}\n{error}" if error else f"{at} {line}")


class JsonLines(logging.Formatter):
    """One JSON object per record: `time`, `level`, `logger`, `message`, and its figures."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            **_figures(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _figures(record: logging.LogRecord) -> dict[str, Any]:
    return dict(getattr(record, "figures", {}))


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
