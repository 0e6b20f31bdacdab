"""Every bound that both ends of the link must agree on, in one place (design: Wire format)."""

from typing import Final

PAYLOAD_BYTES: Final = 256 * 1024
"""Largest MQTT payload a box publishes; the broker accepts 320 KiB."""
DECODED_BYTES: Final = 16 * 1024 * 1024
"""Largest size of a bundle after decompression."""
BUNDLE_ROWS: Final = 100_000
BUNDLE_CELLS: Final = 4_000_000
BUNDLE_SERIES: Final = 65_536
"""Columns of all streams of a bundle together."""
BUNDLE_EXCEPTIONS: Final = 500_000
"""Nulls and quality codes that a bundle may spell out."""
DEPTH: Final = 8
"""Deepest nesting of MessagePack in a bundle."""
NAME_BYTES: Final = 64
"""Longest name of a device, measurement, field or site, in UTF-8 bytes."""
TEXT_BYTES: Final = 64 * 1024
"""Longest string value, in UTF-8 bytes: the shortest limit among the stores we write."""
INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1
"""Integers are what InfluxDB and DuckDB can hold: signed 64 bits."""
COMMIT_INTERVAL_S: Final = 1.0
"""Longest time a sample waits in memory before the spool commits it."""
COMMIT_ROWS: Final = 100
"""Most rows that wait in memory before the spool commits them."""
TIME_MIN_NS: Final = 0
TIME_MAX_NS: Final = 4_102_444_800 * 1_000_000_000
"""Times a sample may carry: 1970 to 2100, UTC."""
