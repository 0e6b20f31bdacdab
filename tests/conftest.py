"""What holds for the whole suite."""

from __future__ import annotations

import faulthandler
import os
import threading
from collections.abc import Generator
from typing import Final

import pytest
from hypothesis import settings

# A shared machine stalls now and then: how long one example takes proves nothing. A verdict is that of the
# code alone, so each run takes the same examples; `make explore` draws new ones.
settings.register_profile("trisense", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("trisense")

STDERR: Final = 2
HOPELESS: Final = 3
"""Times its time-out, after which a test that still runs ends the run."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End the run where a test's own time-out cannot.

    That strikes once. A task that does not let itself be cancelled then keeps its loop from closing.
    """
    marker = item.get_closest_marker("timeout")
    limit_s = float(marker.args[0] if marker is not None else item.config.getini("timeout"))
    last = threading.Timer(HOPELESS * limit_s, _give_up, (item,))
    last.daemon = True
    last.start()
    try:
        return (yield)
    finally:
        last.cancel()


def _give_up(item: pytest.Item) -> None:
    capture = item.config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.suspend_global_capture()
    os.write(STDERR, f"\n{item.nodeid} hangs beyond its time-out:\n".encode())
    faulthandler.dump_traceback(STDERR)
    os._exit(1)
