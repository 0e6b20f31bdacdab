"""Structured logs: one event a line, on stderr; JSON where nobody looks at it live."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict

__all__ = ["Level", "configure", "set_level"]

Level = Literal["debug", "info", "warning", "error"]


class _Gate:
    """Lets through what is at least as grave as ``level``, loggers that exist already included."""

    level = logging.INFO

    def __call__(self, _: object, method: str, event: EventDict) -> EventDict:
        if NUMBERS.get(method, logging.CRITICAL) < self.level:
            raise structlog.DropEvent
        return event


NUMBERS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "exception": logging.ERROR,
}
gate = _Gate()


def set_level(level: Level) -> None:
    """Log from ``level`` on, from now on."""
    gate.level = NUMBERS[level]


def configure(level: Level = "info", *, json: bool | None = None) -> None:
    """Set up structlog for this process. ``json`` None: JSON unless stderr is a terminal."""
    as_json = not sys.stderr.isatty() if json is None else json
    renderer = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(pad_event_to=28)
    )
    set_level(level)
    structlog.configure(
        processors=[
            gate,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
