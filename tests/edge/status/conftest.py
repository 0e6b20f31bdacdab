"""Pictures of boxes that are well, and that are not."""

from __future__ import annotations

from typing import Any

import pytest
from trisense.edge.status.model import Status

BOX: dict[str, Any] = {
    "box": {
        "id": "kx-001",
        "site": "marienplatz",
        "version": "0.1.0",
        "config": "/etc/trisense/edge.toml",
        "config_hash": "0123456789abcdef",
        "pid": 4711,
        "up_s": 90_000.0,
        "boot_id": "boot-1",
    },
    "problems": [],
    "devices": [],
    "buses": [],
    "lines": [],
    "link": {
        "broker": "broker:8883",
        "connected": True,
        "for_s": 3600.0,
        "error": None,
        "trouble": None,
        "trouble_s": None,
        "protocol": "5",
        "gateways": 1,
        "latency_s": 0.03,
        "round_trip_s": 0.12,
        "rate_bytes_s": 250_000.0,
        "lanes": {
            "alarm": {"bundles": 0, "payload_bytes": 0, "on_the_way": 0},
            "live": {"bundles": 10, "payload_bytes": 12_345, "on_the_way": 1},
        },
        "payload_bytes": 12_345,
        "resent_bytes": 0,
        "receipts": 10,
        "refused": 0,
        "allowed": "everything",
        "limited_by": None,
        "used_bytes": 20_000,
        "left_bytes": None,
    },
    "spool": {
        "path": "/var/lib/trisense/spool.db",
        "size_bytes": 4_000_000,
        "cap_bytes": 1_000_000_000,
        "error": None,
        "waiting": {},
        "kept_bytes": 3_000_000,
        "kept_s": 7200.0,
        "losses": {},
        "lost": {},
        "lost_s": None,
        "committed": 1000,
        "pending": 0,
        "dropped": 0,
        "commits_per_min": 60.0,
        "commit_p50_s": 0.002,
        "commit_p99_s": 0.02,
    },
    "clock": {
        "now_ns": 1_780_000_000_000_000_000,
        "mode": "anchored",
        "synced": True,
        "error_ms": 3,
        "confirmed_s": 1.0,
        "held_back_s": 0.0,
    },
    "machine": {
        "disk_free_bytes": 9_000_000_000,
        "disk_bytes": 32_000_000_000,
        "temperature_c": 54.3,
        "cpu": 0.03,
        "cpu_s": 12.5,
        "rss_bytes": 54_000_000,
    },
    "alarms": [],
}


def device(name: str, driver: str = "plantower", **told: Any) -> dict[str, Any]:
    """One that works, unless ``told`` says otherwise."""
    stream = {
        "measurement": "air_quality",
        "time_ns": 1_780_000_000_000_000_000,
        "age_s": 0.4,
        "samples": 100,
        "fields": [
            {"name": "pm2_5", "unit": "ug/m3", "value": 12.0},
            {"name": "air_temperature", "unit": "Cel", "value": -3.25, "quality": 3},
        ],
    }
    good = {
        "name": name,
        "driver": driver,
        "kind": "polled",
        "line": f"serial:///dev/{name}?baud=9600",
        "state": "good",
        "connected": True,
        "step": "wait",
        "step_s": 0.2,
        "interval_s": 1.0,
        "age_s": 0.4,
        "reads": 100,
        "rows": 100,
        "failures": 0,
        "missed": 0,
        "damaged": 0,
        "reasons": {},
        "values": {},
        "flags": {},
        "error": None,
        "failing_s": None,
        "next_try_s": None,
        "streams": [stream],
    }
    return good | told


def failing(name: str, **told: Any) -> dict[str, Any]:
    why: dict[str, Any] = {"state": "failing", "connected": False, "error": f"{name}: no answer (waited 5 s)"}
    since: dict[str, Any] = {
        "failing_s": 725.0,
        "next_try_s": 12.0,
        "failures": 45,
        "reasons": {"timeout": 45},
    }
    return device(name, **(why | since | told))


@pytest.fixture
def good() -> Status:
    return Status.model_validate(BOX | {"devices": [device("dust")]})


@pytest.fixture
def big() -> Status:
    """More than a socket holds."""
    return Status.model_validate(BOX | {"devices": [device(f"dust-{n:03}") for n in range(1000)]})
