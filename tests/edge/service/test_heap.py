"""One heap for all threads, held against the C library."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

PROBE = """
import ctypes, threading
from trisense.edge.service import heap
{share}
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
where = []
def keep() -> None:
    where.append(libc.malloc(1000) >> 26)  # heaps of threads begin at multiples of 64 MiB
keep()
thread = threading.Thread(target=keep)
thread.start()
thread.join()
print(len(set(where)))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has one heap anyway")
@pytest.mark.parametrize(("share", "heaps"), [("", 2), ("heap.share()", 1)])
def test_what_threads_allocate_lies_in_one_heap(share: str, heaps: int) -> None:
    command = [sys.executable, "-c", PROBE.format(share=share)]
    assert int(subprocess.run(command, capture_output=True, check=True).stdout) == heaps
