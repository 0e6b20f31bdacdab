"""What holds for the whole suite."""

from __future__ import annotations

from hypothesis import settings

# A shared machine stalls now and then: how long one example takes proves nothing.
settings.register_profile("trisense", deadline=None)
settings.load_profile("trisense")
