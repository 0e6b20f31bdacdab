"""The level of the log can change while loggers exist."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog
from trisense.core import logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    logs.set_level("info")


def test_a_logger_that_was_bound_before_follows_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning", json=True)
    bound = structlog.get_logger().bind(device="dust")

    def told() -> list[str]:
        bound.debug("a")
        bound.info("b")
        bound.warning("c")
        bound.error("d")
        return [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]

    assert told() == ["c", "d"]
    logs.set_level("debug")
    assert told() == ["a", "b", "c", "d"]
    logs.set_level("error")
    assert told() == ["d"]


def test_an_exception_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("error", json=True)
    try:
        raise ValueError("x")
    except ValueError:
        structlog.get_logger().exception("broken")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["level"] == "error"
