"""When a step of a part of the box has lasted too long."""

from __future__ import annotations

import math
import time

import pytest
from trisense.edge.sensing.progress import Progress


def test_a_step_has_the_age_and_the_limit_that_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    progress = Progress()
    assert progress.limit_s(30.0) == math.inf, "nothing has begun"
    now_s[0] = 107.0
    assert progress.age_s() == 7.0
    progress.at("read", limit_s=5.0)
    now_s[0] = 110.0
    assert (progress.step, progress.age_s(), progress.limit_s(30.0)) == ("read", 3.0, 5.0)
    progress.at("read", limit_s=None)
    assert (progress.age_s(), progress.limit_s(30.0)) == (0.0, 30.0), "a step of the same name is another"
    progress.at("wait")
    assert progress.limit_s(30.0) == math.inf
