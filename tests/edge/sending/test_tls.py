"""The box against the broker we ship: mutual TLS, rights by topic, receipts all the way."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from trisense.core import mqtt, topics
from trisense.core.errors import LinkError
from trisense.core.messages import EpochReceipt, State, pack_receipts
from trisense.core.wire import unpack
from trisense.edge.clocks.clock import Clock
from trisense.edge.config import BoxConfig, load
from trisense.edge.sending import link
from trisense.edge.sending.allowance import Allowance
from trisense.edge.sending.birth import BirthMaker
from trisense.edge.sending.daybook import Daybook
from trisense.edge.sending.link import Connector
from trisense.edge.sending.uplink import Uplink
from trisense.edge.spool import Cut, Spool
from trisense.edge.spool.thread import SpoolThread

from tests.servers import free_port, stop

pytestmark = pytest.mark.peer

MOSQUITTO = Path(__file__).parents[3] / "deploy" / "mosquitto"


@dataclass
class SecureBroker:
    folder: Path
    boxes_port: int
    gateways_port: int


@pytest.fixture
def secure(mosquitto: str, tmp_path: Path) -> Iterator[SecureBroker]:
    for words in (
        ("init", tmp_path, "127.0.0.1"),
        ("box", tmp_path, "kx-001"),
        ("gateway", tmp_path, "gateway"),
    ):
        subprocess.run([MOSQUITTO / "certificates.sh", *words], check=True, capture_output=True)
    made = SecureBroker(tmp_path, free_port(), free_port())
    text = (MOSQUITTO / "trisense.conf").read_text()
    for old, new in (
        ("/etc/mosquitto/certs", str(tmp_path)),
        ("/etc/mosquitto/conf.d", str(tmp_path)),
        ("listener 8883", f"listener {made.boxes_port} 127.0.0.1"),
        ("listener 8884 127.0.0.1", f"listener {made.gateways_port} 127.0.0.1"),
    ):
        text = text.replace(old, new)
    for rights in MOSQUITTO.glob("*.acl"):
        shutil.copy(rights, tmp_path)
    file = tmp_path / "mosquitto.conf"
    file.write_text(text + "\nuser root\n")  # as its own user it could not read the test's folder
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([mosquitto, "-c", str(file)], stderr=log)
    for port in (made.boxes_port, made.gateways_port):  # one listener opens after the other
        while True:
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except ConnectionRefusedError:
                continue
    yield made
    stop(process)


def box_config(secure: SecureBroker, *, certificate: bool = True) -> BoxConfig:
    own = 'cert_file = "boxes/kx-001.crt"\nkey_file = "boxes/kx-001.key"\n' if certificate else ""
    file = secure.folder / "box.toml"
    file.write_text(
        '[box]\nid = "kx-001"\nsite = "kx"\n'
        f'[mqtt]\nhost = "127.0.0.1"\nport = {secure.boxes_port}\nca_file = "gateways-ca.crt"\n{own}'
        '[[device]]\nname = "dust"\ndriver = "plantower"\nline = "serial:///dev/null?baud=9600"\n'
    )
    return load(file)


def offline() -> State:
    return State(online=False, boot_id="boot-1", since="2026-01-01T00:00:00+00:00")


async def answer(secure: SecureBroker, listening: asyncio.Event) -> None:
    """A gateway that receipts what it hears."""
    context = ssl.create_default_context(cafile=str(secure.folder / "gateways-ca.crt"))
    certificate = secure.folder / "gateways" / "gateway"
    context.load_cert_chain(certificate.with_suffix(".crt"), certificate.with_suffix(".key"))
    async with mqtt.Client("127.0.0.1", secure.gateways_port, tls_context=context) as client:
        await client.subscribe(f"{topics.ROOT}/+/up/+", 1)
        listening.set()
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            bundle = unpack(message.payload)
            receipts = [EpochReceipt(head.epoch, ((head.seq, head.seq),)) for head in bundle.heads]
            await client.publish(topics.receipt(bundle.box), pack_receipts(receipts), 1)


async def test_a_box_with_its_certificate_is_heard_and_gets_its_receipts(
    secure: SecureBroker, make_spool: Callable[..., Spool], clock: Clock, cut: Callable[..., Cut]
) -> None:
    config = box_config(secure)
    listening = asyncio.Event()
    gateway = asyncio.create_task(answer(secure, listening))
    await listening.wait()
    async with SpoolThread(make_spool()) as door:
        await door.run(lambda spool: spool.commit([cut(1)]))
        uplink = Uplink(
            Connector("kx-001", config.mqtt),
            door,
            BirthMaker(config),
            Allowance(config.link, clock, Daybook(secure.folder / "link", clock)),
            state=lambda _: offline(),
        )
        sending = asyncio.create_task(uplink.run())
        async with asyncio.timeout(20):
            while await door.run(Spool.waiting):  # noqa: ASYNC110  # another thread's file tells nobody
                await asyncio.sleep(0.02)
        for task in (sending, gateway):
            task.cancel()
        await asyncio.gather(sending, gateway, return_exceptions=True)
    assert uplink.counts["batches_receipted"] == 1


async def test_a_box_without_a_certificate_is_refused_in_words(
    secure: SecureBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "CONNECT_S", 1.0)
    config = box_config(secure, certificate=False)
    with pytest.raises(LinkError, match="CERTIFICATE_REQUIRED"):
        async with Connector("kx-001", config.mqtt).connect(offline().model_dump_json()):
            pytest.fail("it was let in")


# paho leaves the socket of a handshake that failed to the garbage collector, which closes it.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("broker", "why"),
    [
        ({"host": "localhost"}, "Hostname mismatch"),
        ({"ca_file": Path("boxes-ca.crt")}, "certificate verify failed"),
        ({"ca_file": None, "tls": True}, "certificate verify failed"),
    ],
    ids=["another name", "another authority", "the system's authorities"],
)
async def test_a_broker_that_is_not_the_one_named_is_never_spoken_to(
    secure: SecureBroker, monkeypatch: pytest.MonkeyPatch, broker: dict[str, object], why: str
) -> None:
    """What a box is told from afar it believes because of this."""
    monkeypatch.setattr(link, "CONNECT_S", 1.0)
    table = box_config(secure).mqtt
    authority = broker.get("ca_file")
    if isinstance(authority, Path):
        broker = broker | {"ca_file": secure.folder / authority}
    assert table.encrypted
    with pytest.raises(LinkError, match=why):
        async with Connector("kx-001", table.model_copy(update=broker)).connect(offline().model_dump_json()):
            pytest.fail("it was spoken to")
