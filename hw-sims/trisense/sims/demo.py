"""``trisense demo``: simulated city, boxes, broker, gateway, store and page in one command."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from trisense.core.cli import cannot
from trisense.core.errors import TrisenseError
from trisense.sims.city import CITY, to_toml
from trisense.sims.processes import Children, free_port, program, trisense, wait_for_port

__all__ = ["app"]

Answer = dict[str, Any]

START_S: Final = 60.0
DRAIN_S: Final = 60.0
SETTLE_S: Final = 1.5
"""Longer than a box takes to commit what it has read."""
LOOK_S: Final = 1.0
PLAIN_LOOK_S: Final = 10.0
"""Between two summary lines where nobody watches a terminal."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Stopped(KeyboardInterrupt):
    """SIGTERM or Ctrl-C: also where a shell started us with SIGINT ignored."""


@app.command()
def demo(
    *,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="End by itself after so long, with audit and summary.")
    ] = None,
    boxes: Annotated[int, typer.Option(min=1, max=9, help="Field boxes; the last stands on a roof.")] = 4,
    store: Annotated[str, typer.Option(help="duckdb, or influxdb: a local server of Debian's.")] = "duckdb",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0: a free one.")] = 8080,
    faults: Annotated[
        str, typer.Option(help="What the devices do wrong, such as checksum=0.02,late=0.01,hangup=0.001.")
    ] = "checksum=0.005,garbage=0.005,silence=0.002",
    seed: Annotated[int, typer.Option(help="The same seed is the same city.")] = 1,
    folder: Annotated[
        Path | None, typer.Option(help="Keep logs, spools and store here; else they go when it ends.")
    ] = None,
) -> None:
    """Run a city in a box: every kind of device on real ptys and sockets, through to a live page.

    Ends with Ctrl-C, or after --seconds: then the devices stop, the boxes drain, and the audit accounts for
    every sample. Exit code 0 when it balances, 1 when not, 2 when something cannot run.
    """
    if store not in ("duckdb", "influxdb"):
        cannot(f"--store: expected duckdb or influxdb, got {store}")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    with _folder(folder) as home, Children(home) as children:
        town = Town(
            home, children, boxes=boxes, store=store, port=port or free_port(), faults=faults, seed=seed
        )
        try:
            town.start()
            town.watch(seconds)
        except KeyboardInterrupt:
            typer.echo("")
        balanced = town.finish()
    raise typer.Exit(0 if balanced else 1)


def _stop(*_: object) -> NoReturn:
    raise Stopped


@contextlib.contextmanager
def _folder(wanted: Path | None) -> Iterator[Path]:
    if wanted is not None:
        wanted.mkdir(parents=True, exist_ok=True)
        yield wanted.resolve()
        return
    made = Path(tempfile.mkdtemp(prefix="trisense-demo-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@dataclass(slots=True)
class Account:
    """Samples of one box, or of all."""

    committed: int = 0
    stored: int = 0
    waiting: int = 0


class Town:
    """All processes of the demo, and what they say."""

    def __init__(
        self,
        home: Path,
        children: Children,
        *,
        boxes: int,
        store: str,
        port: int,
        faults: str,
        seed: int,
    ) -> None:
        self._home = home
        self._children = children
        self._boxes = boxes
        self._store: Literal["duckdb", "influxdb"] = "influxdb" if store == "influxdb" else "duckdb"
        self._port = port
        self._faults = faults
        self._seed = seed
        self._mqtt_port = free_port()
        self._console = Console()
        self._city: list[Answer] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    # --- start --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything, servers first.

        Raises:
            TrisenseError: a part does not come up; with the end of its log.
        """
        self._say(f"logs and data in {self._home}")
        self._start_broker()
        gateway_toml = self._home / "gateway.toml"
        gateway_toml.write_text(to_toml(self._gateway_tables()), encoding="utf-8")
        gateway = self._children.start("gateway", trisense("gateway", "run", str(gateway_toml)))
        city = self._children.start(
            "city",
            trisense(
                *("sim", "city", str(self._home), "--boxes", str(self._boxes), "--seed", str(self._seed)),
                *("--mqtt-port", str(self._mqtt_port), "--faults", self._faults),
            ),
        )
        wait_for_port(gateway, self._port, timeout_s=START_S)
        listed = self._home / CITY
        deadline = time.monotonic() + START_S
        while not listed.exists():
            if city.process.poll() is not None or time.monotonic() > deadline:
                raise TrisenseError(f"the city does not come up: {city.last_words()}")
            time.sleep(0.1)
        self._city = json.loads(listed.read_text(encoding="utf-8"))
        for box in self._city:
            self._children.start(box["box"], trisense("edge", "run", str(Path(box["folder"]) / "box.toml")))
        devices = sum(box["devices"] for box in self._city)
        self._say(
            f"{len(self._city)} boxes, {devices} devices, broker, gateway and {self._store} are running"
        )
        self._console.print(f"the live page: [bold]{self.url}/[/bold]   (Ctrl-C ends)")

    def _start_broker(self) -> None:
        mosquitto = program("mosquitto")
        if mosquitto is not None:
            config = self._home / "mosquitto.conf"
            config.write_text(
                f"listener {self._mqtt_port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
                "max_packet_size 327680\n",
                encoding="utf-8",
            )
            command = [mosquitto, "-c", str(config)]
        else:
            self._say("no Mosquitto on this machine: amqtt stands in")
            command = [sys.executable, "-m", "trisense.sims.broker", str(self._mqtt_port)]
        wait_for_port(self._children.start("broker", command), self._mqtt_port)

    def _start_influxdb(self) -> int:
        influxd = program("influxd")
        if influxd is None:
            raise TrisenseError("--store influxdb needs influxd (Debian package influxdb)")
        port, inner_port = free_port(), free_port()
        home = self._home / "influxdb"
        home.mkdir(exist_ok=True)
        config = home / "influx.conf"
        config.write_text(
            f'reporting-disabled = true\nbind-address = "127.0.0.1:{inner_port}"\n'
            f'[meta]\ndir = "{home}/meta"\n'
            f'[data]\ndir = "{home}/data"\nwal-dir = "{home}/wal"\nindex-version = "tsi1"\n'
            f'[http]\nbind-address = "127.0.0.1:{port}"\n',
            encoding="utf-8",
        )
        wait_for_port(self._children.start("influxdb", [influxd, "run", "-config", str(config)]), port)
        query = urllib.parse.urlencode({"q": "CREATE DATABASE trisense"}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/query", query, timeout=10):  # our own server
            return port

    def _gateway_tables(self) -> Answer:
        if self._store == "duckdb":
            store: Answer = {"kind": "duckdb", "path": "trisense.duckdb"}
        else:
            url = f"http://127.0.0.1:{self._start_influxdb()}"
            store = {
                "kind": "influxdb",
                "api": "v1",
                "url": url,
                "database": "trisense",
                "state_path": "state",
            }
        return {
            "mqtt": {"host": "127.0.0.1", "port": self._mqtt_port},
            "store": store,
            "quarantine": {"path": "quarantine"},
            "http": {"host": "127.0.0.1", "port": self._port},
        }

    # --- watch --------------------------------------------------------------------------------

    def watch(self, seconds: float | None) -> None:
        """Show a live summary until the time is up.

        Raises:
            TrisenseError: a part ended by itself; with the end of its log.
        """
        until = None if seconds is None else time.monotonic() + seconds
        if self._console.is_terminal:
            with Live(self._summary(), console=self._console, refresh_per_second=4) as live:
                while self._running(until, LOOK_S):
                    live.update(self._summary())
            return
        while self._running(until, PLAIN_LOOK_S):
            accounts = self._accounts().values()
            committed, stored = sum(a.committed for a in accounts), sum(a.stored for a in accounts)
            self._say(f"committed {committed}, stored {stored} samples")

    def _running(self, until: float | None, look_s: float) -> bool:
        pause = look_s if until is None else min(look_s, max(0.0, until - time.monotonic()))
        time.sleep(pause)
        for child in self._children.dead():
            raise TrisenseError(f"{child.name} ended with {child.process.returncode}: {child.last_words()}")
        return until is None or time.monotonic() < until

    def _summary(self) -> Table:
        table = Table(title=f"trisense · {self.url}/", title_justify="left")
        for column in ("box", "site", "state"):
            table.add_column(column)
        for column in ("devices", "samples committed", "stored", "on the way"):
            table.add_column(column, justify="right")
        accounts = self._accounts()
        for name, box in sorted(self._ask("state").get("boxes", {}).items()):
            account = accounts.get(name, Account())
            online = {True: "online", False: "offline"}.get(box.get("online"), "unknown")
            numbers = (len(box.get("devices", {})), account.committed, account.stored, account.waiting)
            table.add_row(name, box.get("site", ""), online, *map(str, numbers))
        return table

    def _accounts(self) -> dict[str, Account]:
        """What the gateway knows of each box; the spools are not opened for it."""
        found: dict[str, Account] = {}
        for facts in self._ask("audit").get("facts", []):
            known = found.setdefault(facts["box"], Account())
            known.committed += facts["committed"] or 0
            known.stored += facts["stored"]
            known.waiting += (facts["committed"] or 0) - facts["stored"] - facts["refused"]
        return found

    def _ask(self, what: str) -> Answer:
        """One JSON answer of the gateway; empty while it cannot answer."""
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{what}", timeout=5) as answer:  # noqa: S310  # loopback
                found: Answer = json.load(answer)
                return found
        except (OSError, ValueError):
            return {}

    # --- end ----------------------------------------------------------------------------------

    def finish(self) -> bool:
        """Stop the devices, let the boxes drain, account for every sample; True when the account balances."""
        if not self._city:
            return False
        self._say("stopping the devices, draining the boxes")
        self._children.stop("city")
        account = self._settled()
        code = subprocess.run(trisense("audit", "--url", self.url, *self._spools()), check=False).returncode
        told = sum(_lines(Path(box["folder"]) / "truth.jsonl") for box in self._city)
        health = self._ask("health")
        readings, sent = health.get("readings", 0), health.get("payload_bytes", 0)
        self._say(
            f"devices told {told} rows; boxes committed {account.committed} samples, "
            f"{account.stored} stored, {account.waiting} waiting; "
            f"{readings} readings in {sent} bytes of bundles: {sent / max(1, readings):.2f} bytes per reading"
        )
        return code == 0 and account.stored > 0 and not account.waiting

    def _settled(self) -> Account:
        """The account once nothing waits and nothing new was committed between two looks."""
        deadline = time.monotonic() + DRAIN_S
        before, account = None, self._audit()
        while (account.waiting or account != before) and time.monotonic() < deadline:
            time.sleep(SETTLE_S)
            before, account = account, self._audit()
        return account

    def _audit(self) -> Account:
        """The account of all boxes together, spools included."""
        command = trisense("audit", "--url", self.url, *self._spools(), "--json")
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        total = Account()
        for account in json.loads(answer.stdout or "{}").get("accounts", []):
            total.committed += account["committed"] or 0
            total.stored += account["stored"]
            total.waiting += account["waiting"] + account["pending"] + account["in_flight"]
        return total

    def _spools(self) -> list[str]:
        spools = [Path(box["folder"]) / "spool.db" for box in self._city]
        return [part for spool in spools if spool.exists() for part in ("--spool", str(spool))]

    def _say(self, text: str) -> None:
        self._console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {text}", highlight=False, soft_wrap=True)


def _lines(file: Path) -> int:
    with file.open("rb") as text:
        return sum(1 for _ in text)
