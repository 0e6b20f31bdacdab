"""Whatever comes over the link or the local socket: the box goes on, answers, and does not grow."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgpack
import paho.mqtt.client as paho
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion
from trisense.core import limits, topics
from trisense.core.remote import VERBS, content_hash

from tests.edge.conftest import Broker

pytestmark = pytest.mark.peer

BOX = "kx-001"
GROWTH_KB = 48_000
HEAD = f'[box]\nid = "{BOX}"\nsite = "kx"\n[mqtt]\nhost = "127.0.0.1"\n'
REST = '[remote]\nhealth_s = 1\n[[device]]\nname = "dust"\ndriver = "plantower"\nline = "tcp://127.0.0.1:1"\n'
Message = tuple[str, bytes]


class Victim:
    """A box in a process of its own, and whoever has the gateway's rights at its broker."""

    def __init__(self, folder: Path, port: int) -> None:
        self.file = folder / "box.toml"
        self.content = f"{HEAD}port = {port}\n{REST}"
        self.file.write_text(self.content)
        self.log = folder / "box.log"
        self.numbers = count()
        self._answers: dict[str, Any] = {}
        self._news = threading.Condition()
        self.client = paho.Client(CallbackAPIVersion.VERSION2)
        self.client.on_message = self._heard
        self.client.connect("127.0.0.1", port)
        self.client.subscribe([(topics.reply(BOX, "+"), 1), (topics.reported(BOX), 1)])
        self.client.loop_start()
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "trisense.core", "edge", "run", str(self.file)]
            self.process = subprocess.Popen(command, stderr=log)
        with self._news:
            assert self._news.wait_for(lambda: topics.reported(BOX) in self._answers, 20)

    def _heard(self, _: object, __: object, message: paho.MQTTMessage) -> None:
        with self._news:
            self._answers[message.topic] = json.loads(message.payload)
            self._news.notify_all()

    def goes_on(self) -> None:
        """Ask something after all that was sent; it was taken before, for messages keep their order."""
        identity = f"good-{next(self.numbers)}"
        body = {"v": 1, "verb": "show-config", "deadline": "2100-01-01T00:00:00Z"}
        self.client.publish(topics.command(BOX, identity), json.dumps(body), 1)
        with self._news:
            topic = topics.reply(BOX, identity)
            assert self._news.wait_for(lambda: topic in self._answers, 20), self.log.read_text()[-3000:]
            assert self._answers[topic]["ok"]
        assert self.process.poll() is None

    def gives_up(self, desired: object) -> None:
        """Wait for the report that this configuration will not be."""

        def told() -> bool:
            report = self._answers[topics.reported(BOX)]
            return report["desired"] == desired and report["state"] in ("rejected", "rolled_back")

        with self._news:
            assert self._news.wait_for(told, 20), self.log.read_text()[-3000:]

    def is_well(self) -> None:
        """No bug showed, and the link stayed."""
        said = self.log.read_text()
        for bug in ("message_failed", "command_broken", "configuration_broken", "Traceback", "link_down"):
            assert bug not in said, said[-5000:]

    def memory_kb(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]  # each process has that line

    def end(self) -> None:
        self.client.loop_stop()
        self.client.disconnect()
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory, mosquitto: str) -> Iterator[Victim]:
    """One for all: what one of them did to it the next one would see."""
    folder = tmp_path_factory.mktemp("victim")
    broker = Broker(mosquitto, folder)
    broker.start()
    made = Victim(folder, broker.port)
    yield made
    made.end()
    broker.stop()


# --- what is sent ---

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(
        ["dust", "debug", "1970-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=8), v, max_size=4),
    max_leaves=12,
)
DEEP = st.integers(0, 20_000).map(lambda depth: b"[" * depth) | st.integers(0, 3000).map(
    lambda n: b'{"a":' * n
)
LARGE = st.integers(0, limits.PAYLOAD_BYTES + 1000).map(lambda size: b'"' + b"x" * size + b'"')
ANY = st.binary(max_size=500) | VALUES.map(lambda v: json.dumps(v).encode()) | DEEP | LARGE


def like(good: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Something like ``good``: keys left out, added, and with other values."""
    other = st.fixed_dictionaries({}, optional={key: VALUES | st.just(value) for key, value in good.items()})
    extra = st.dictionaries(st.text(max_size=8), VALUES, max_size=1)
    return st.builds(lambda base, ours, more: base | ours | more, st.just(good) | st.just({}), other, extra)


COMMANDS = st.sampled_from(VERBS).flatmap(
    lambda verb: like(
        {"v": 1, "verb": verb, "deadline": "2100-01-01T00:00:00Z", "arguments": {"device": "dust"}}
    )
)
LINES = st.sampled_from(
    [
        "[[device]]", "[device.quality.pm2_5]", "[link]", "[[alarm]]", "[log]", "[box]", "name = 'b'",
        "name = '" + "\\" * 20_000 + "'", "driver = 'plantower'", "driver = 'modbus:wb-msw'", "line = 'tcp://a:1'",
        "password_file = \"\\u0000\"",
        "line = 'replay:///dev/zero'", "interval_s = nan", "interval_s = " + "9" * 5000, "level = 'debug'",
        "hours = ['25:00-24:00']", "calibration = ['/dev/zero']", "x" + ".a" * 40 + " = 1", "id = 'other'",
    ]
)  # fmt: skip


@st.composite
def desired(draw: st.DrawFn, content: str) -> dict[str, Any]:
    """A configuration that is one, or almost."""
    text = content + "\n".join(draw(st.lists(LINES, max_size=3, unique=True)))
    good = {"v": 1, "hash": content_hash(text), "content": text, "dry_run": draw(st.booleans())}
    return draw(st.just(good) | like(good))


SEQ = st.integers(0, 2**64 - 1) | st.integers(-1, 5)
RECEIPTS = like(
    {"v": 1, "receipts": [{"epoch": 1, "stored": [[0, 2**63 - 1]] * 50, "refused": [[0, "x", 1]]}]}
) | st.builds(
    lambda epoch, stored: {"v": 1, "receipts": [{"epoch": epoch, "stored": stored, "refused": []}]},
    st.integers(0, 2**64 - 1),
    st.lists(st.tuples(SEQ, SEQ), max_size=50),
)
WORKERS = like({"v": 1, "online": True, "credit": 1})
# What is no good name of a topic the broker takes for a reason to hang up.
LETTERS = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn"), exclude_characters="/+#")
IDENTITIES = st.text(LETTERS, min_size=1, max_size=70)


def messages(content: str) -> st.SearchStrategy[list[Message]]:
    def at(topic: st.SearchStrategy[str], *payloads: st.SearchStrategy[Any]) -> st.SearchStrategy[Message]:
        return st.tuples(topic, st.one_of(*(p.map(lambda v: json.dumps(v).encode()) for p in payloads)) | ANY)

    receipts = (RECEIPTS | VALUES).filter(packable).map(msgpack.packb) | ANY
    one = (
        at(IDENTITIES.map(lambda identity: f"{topics.ROOT}/{BOX}/cmd/{identity}"), COMMANDS)
        | at(st.just(topics.desired(BOX)), desired(content))
        | at(IDENTITIES.map(topics.gateway_state), WORKERS)
        | st.tuples(st.just(topics.receipt(BOX)), receipts)
    )
    return st.lists(one, min_size=1, max_size=12)


def packable(value: object) -> bool:
    try:
        msgpack.packb(value)
    except (OverflowError, ValueError, UnicodeError):
        return False
    return True


QUICK = settings(
    max_examples=40,
    deadline=None,
    database=None,
    phases=(Phase.generate,),  # a box that fails stays so: there is nothing to shrink
    suppress_health_check=list(HealthCheck),
)


HARD = {
    "digits": "interval_s = " + "9" * 5000,
    # Told as it was written, each sign doubled twice, it exceeds what a broker takes.
    "backslashes": "[[device]]\ndriver = '" + "\\" * 90_000 + "'",
    # Each mistake is told with its long path.
    "path": "[device.quality." + "a" * 2000 + "]\n" + "".join(f"x{n} = 1\n" for n in range(500)),
    "line": "[[device]]\nname = 'x'\ndriver = 'plantower'\nline = 'tcp://" + "a" * 90_000 + ":1'",
    "endless": "calibration = ['/dev/zero']",
    "zero": "calibration = ['a', \"b\\u0000c\"]",
    "devices": "[[device]]\n" * 8000,
}


def test_whatever_is_desired_is_told_in_a_report_that_a_broker_takes(victim: Victim) -> None:
    for text in HARD.values():
        content = victim.content + text
        body = {"v": 1, "hash": content_hash(content), "content": content}
        victim.client.publish(topics.desired(BOX), json.dumps(body), 1)
        victim.gives_up(body["hash"])
        victim.goes_on()
    victim.is_well()


def test_a_box_goes_on_whatever_it_is_told(victim: Victim) -> None:
    victim.goes_on()
    before_kb = victim.memory_kb()

    @QUICK
    @given(messages(victim.content))
    def told(sent: list[Message]) -> None:
        for topic, payload in sent:
            victim.client.publish(topic, payload, 1)
        victim.goes_on()

    told()
    assert victim.memory_kb() - before_kb < GROWTH_KB
    victim.is_well()


REQUESTS = (
    like({"ask": "tap", "device": "*", "measurement": "?", "field": "*" * 64, "where": ["a > 1"] * 8}).map(
        lambda request: json.dumps(request).encode()
    )
    | like({"ask": "status"}).map(lambda request: json.dumps(request).encode())
    | ANY
)


def test_the_socket_answers_whatever_it_is_asked(victim: Victim) -> None:
    before_kb = victim.memory_kb()
    path = str(victim.file.with_name("spool.db.sock"))

    def ask(*requests: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(path)
            try:
                for request in requests:
                    client.sendall(request + b"\n")
                return client.recv(100)
            except (BrokenPipeError, ConnectionResetError):  # it has said no, and gone
                return b""

    @QUICK
    @given(st.lists(REQUESTS, min_size=1, max_size=5))
    def asked(requests: list[bytes]) -> None:
        ask(*requests)
        assert ask(b'{"ask": "status"}').startswith(b'{"v":1')

    asked()
    victim.goes_on()
    assert victim.memory_kb() - before_kb < GROWTH_KB
    victim.is_well()
