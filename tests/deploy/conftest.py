"""A real Mosquitto with the shipped configuration and certificates made by the shipped script."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import free_port, stop

DEPLOY = Path(__file__).parents[2] / "deploy"


def certificates(*args: str) -> subprocess.CompletedProcess[str]:
    command = [str(DEPLOY / "mosquitto" / "certificates.sh"), *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@dataclass
class Broker:
    boxes_port: int
    gateways_port: int
    folder: Path

    def tls(self, name: str) -> ssl.SSLContext:
        """A client's side of mutual TLS; ``name`` is a path below the folder without its suffix."""
        context = ssl.create_default_context(cafile=str(self.folder / "gateways-ca.crt"))
        context.load_cert_chain(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        return context


def configuration(folder: Path, boxes_port: int, gateways_port: int) -> Path:
    """The shipped file with this folder's paths and free ports in place of a machine's own."""
    text = (DEPLOY / "mosquitto" / "trisense.conf").read_text()
    text = text.replace("/etc/mosquitto/certs", str(folder)).replace("/etc/mosquitto/conf.d", str(folder))
    text = text.replace("listener 8883", f"listener {boxes_port} 127.0.0.1")
    text = text.replace("listener 8884 127.0.0.1", f"listener {gateways_port} 127.0.0.1")
    for name in ("trisense.acl", "trisense-gateway.acl"):
        shutil.copy(DEPLOY / "mosquitto" / name, folder / name)
    file = folder / "mosquitto.conf"
    # Started by root, Mosquitto would become its own user and lose sight of the test's folder.
    file.write_text(text + "\nuser root\n")
    return file


def until_open(port: int) -> None:
    """Wait until somebody listens on a loopback port."""
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        # The kernel refuses at once, so only a pause gives the server its time to start.
        threading.Event().wait(0.05)
    pytest.fail(f"nobody listens on port {port}")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if mosquitto is None:
        pytest.skip("mosquitto is not installed")
    folder = tmp_path_factory.mktemp("broker")
    strangers = tmp_path_factory.mktemp("strangers")
    assert certificates("init", str(folder), "127.0.0.1").returncode == 0
    for name in ("kx-001", "kx-002", "kx-revoked"):
        assert certificates("box", str(folder), name).returncode == 0
    assert certificates("revoke", str(folder), "kx-revoked").returncode == 0
    assert certificates("gateway", str(folder), "gateway").returncode == 0
    assert certificates("init", str(strangers), "127.0.0.1").returncode == 0
    assert certificates("box", str(strangers), "stranger").returncode == 0
    for suffix in ("crt", "key"):
        shutil.copy(strangers / "boxes" / f"stranger.{suffix}", folder / f"stranger.{suffix}")
    boxes_port, gateways_port = free_port(), free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [mosquitto, "-c", str(configuration(folder, boxes_port, gateways_port))], stderr=log
        )
    try:
        until_open(boxes_port)
        until_open(gateways_port)
        assert process.poll() is None, (folder / "log").read_text()
        yield Broker(boxes_port, gateways_port, folder)
    finally:
        stop(process)
