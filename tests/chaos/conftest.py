"""A small town of real processes: devices, boxes, broker, gateway, to be killed and restored."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from trisense.gateway.accounts import Account, balance, facts_from_json, read_spool
from trisense.sims.city import CITY, to_toml
from trisense.sims.processes import Children, program, trisense, wait_for_port

from tests.servers import free_port

COMMIT_S: Final = 1.0


@dataclass
class Town:
    home: Path
    children: Children
    commands: dict[str, list[str]]
    url: str
    kills: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """UTC times of the kills, by process."""
    devices_end_ns: int = 0

    def audit(self, *options: str) -> dict[str, Any]:
        spools = [part for spool in sorted(self.home.glob("*/spool.db")) for part in ("--spool", str(spool))]
        command = trisense("audit", "--url", self.url, *spools, *options, "--json")
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        assert answer.stdout, answer.stderr
        found: dict[str, Any] = json.loads(answer.stdout)
        return {**found, "exit": answer.returncode}

    def accounts(self) -> list[Account]:
        """The same without a program to start."""
        answer = httpx.get(f"{self.url}/api/v1/audit", timeout=30).raise_for_status().json()
        waiting = {e: w for spool in self.home.glob("*/spool.db") for e, w in read_spool(spool).items()}
        return [balance(facts_from_json(facts), waiting) for facts in answer["facts"]]

    def kill(self, name: str) -> None:
        """SIGKILL a process that is alive, prove that it died of it, and start it again."""
        process = self.children[name].process
        assert process.poll() is None, f"{name} had ended by itself: {self.children[name].last_words()}"
        self.kills[name].append(time.time_ns())
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL

    def start(self, name: str) -> None:
        self.children.start(name, self.commands[name])

    def at_rest(self) -> dict[str, Any]:
        """The audit once nothing is on its way and nothing new was committed for two commit intervals."""
        deadline = time.monotonic() + 90
        before = None
        while True:
            accounts = self.accounts()
            waiting = sum(a.waiting + a.pending + a.in_flight for a in accounts)
            committed = sum(a.committed or 0 for a in accounts)
            if not waiting and committed == before:
                return self.audit()
            assert time.monotonic() < deadline, accounts
            before = committed
            time.sleep(2 * COMMIT_S)  # an audit is a question to a running system: ask again later


@pytest.fixture
def town(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Town]:
    """As many boxes as the test's parameter says, else three."""
    mosquitto = program("mosquitto")
    if mosquitto is None:
        pytest.skip("mosquitto is not installed")
    mqtt_port, http_port = free_port(), free_port()
    broker = tmp_path / "mosquitto.conf"
    broker.write_text(
        f"listener {mqtt_port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_packet_size 327680\n"
    )
    gateway = tmp_path / "gateway.toml"
    tables = {
        "mqtt": {"host": "127.0.0.1", "port": mqtt_port},
        "store": {"kind": "duckdb", "path": "trisense.duckdb", "free_floor_bytes": 0},
        "http": {"port": http_port},
    }
    gateway.write_text(to_toml(tables))
    commands = {
        "broker": [mosquitto, "-c", str(broker)],
        "gateway": trisense("gateway", "run", str(gateway)),
    }
    with Children(tmp_path) as children:
        wait_for_port(children.start("broker", commands["broker"]), mqtt_port)
        wait_for_port(children.start("gateway", commands["gateway"]), http_port)
        options = ("--boxes", str(getattr(request, "param", 3)), "--mqtt-port", str(mqtt_port), "--seed", "7")
        city = children.start("city", trisense("sim", "city", str(tmp_path), *options))
        while not (tmp_path / CITY).exists():
            assert city.process.poll() is None, city.last_words()
            time.sleep(0.1)  # the file is the city's word that all devices stand
        for box in json.loads((tmp_path / CITY).read_text()):
            commands[box["box"]] = trisense("edge", "run", f"{box['folder']}/box.toml")
        town = Town(tmp_path, children, commands, f"http://127.0.0.1:{http_port}")
        for box in sorted(set(commands) - {"broker", "gateway"}):
            town.start(box)
        yield town
