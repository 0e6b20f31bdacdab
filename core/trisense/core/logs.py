"""Structured logs: one event a line, on stderr; JSON where nobody looks at it live."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

__all__ = ["Level", "configure"]

Level = Literal["debug", "info", "warning", "error"]


def configure(level: Level = "info", *, json: bool | None = None) -> None:
    """Set up structlog for this process. ``json`` None: JSON unless stderr is a terminal."""
    as_json = not sys.stderr.isatty() if json is None else json
    renderer = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(pad_event_to=28)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
