"""A real Mosquitto with the shipped configuration, certificates made for the occasion."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"


def _openssl(*args: str, cwd: Path) -> None:
    subprocess.run(["openssl", *args], cwd=cwd, check=True, capture_output=True)


@dataclass
class Authority:
    """A certificate authority in a folder of its own."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, name: str) -> Authority:
        folder.mkdir()
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", f"/CN={name}"),
            cwd=folder,
        )
        (folder / "index.txt").touch()
        (folder / "serial").write_text("01\n")
        (folder / "crlnumber").write_text("01\n")
        (folder / "ca.cnf").write_text(
            "[ca]\ndefault_ca = d\n[d]\ndatabase = index.txt\nserial = serial\ncrlnumber = crlnumber\n"
            "new_certs_dir = .\ncertificate = ca.crt\nprivate_key = ca.key\ndefault_md = sha256\n"
            "default_days = 2\ndefault_crl_days = 2\npolicy = p\ncopy_extensions = copy\n"
            "unique_subject = no\n"
            "[p]\ncommonName = supplied\n"
        )
        return cls(folder)

    def issue(self, name: str, *, host: str | None = None) -> tuple[Path, Path]:
        """A certificate and its key for ``name``."""
        extra = ["-addext", f"subjectAltName=IP:{host}"] if host else []
        _openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout"),
            *(f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}", *extra),
            cwd=self.folder,
        )
        _openssl(
            *("ca", "-batch", "-config", "ca.cnf", "-in", f"{name}.csr", "-out", f"{name}.crt"),
            cwd=self.folder,
        )
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"

    def revoke(self, name: str) -> None:
        _openssl("ca", "-config", "ca.cnf", "-revoke", f"{name}.crt", cwd=self.folder)

    def crl(self) -> Path:
        _openssl("ca", "-config", "ca.cnf", "-gencrl", "-out", "ca.crl", cwd=self.folder)
        return self.folder / "ca.crl"


@dataclass
class Broker:
    boxes_port: int
    gateways_port: int
    boxes: Authority
    gateways: Authority
    server_ca: Path

    def tls(self, authority: Authority, name: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.server_ca))
        context.load_cert_chain(authority.folder / f"{name}.crt", authority.folder / f"{name}.key")
        return context


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory, until_open: Callable[[int], None]) -> Iterator[Broker]:
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if mosquitto is None:
        pytest.skip("mosquitto is not installed")
    folder = tmp_path_factory.mktemp("broker")
    boxes = Authority.make(folder / "boxes", "boxes")
    gateways = Authority.make(folder / "gateways", "gateways")
    for name in ("kx-001", "kx-002", "kx-revoked"):
        boxes.issue(name)
    boxes.revoke("kx-revoked")
    gateways.issue("gateway")
    certificate, key = gateways.issue("broker", host="127.0.0.1")
    shutil.copy(boxes.folder / "ca.crt", folder / "boxes-ca.crt")
    shutil.copy(boxes.crl(), folder / "boxes.crl")
    shutil.copy(gateways.folder / "ca.crt", folder / "gateways-ca.crt")
    shutil.copy(certificate, folder / "broker.crt")
    shutil.copy(key, folder / "broker.key")
    boxes_port, gateways_port = free_port(), free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [mosquitto, "-c", str(configuration(folder, boxes_port, gateways_port))], stderr=log
        )
    try:
        until_open(boxes_port)
        assert process.poll() is None, (folder / "log").read_text()
        yield Broker(boxes_port, gateways_port, boxes, gateways, gateways.folder / "ca.crt")
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture(scope="session")
def until_open() -> Callable[[int], None]:
    """Wait until somebody listens on a loopback port."""

    def wait(port: int) -> None:
        for _ in range(200):
            with socket.socket() as probe:
                probe.settimeout(0.1)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            # The kernel refuses at once, so only a pause gives the server its time to start.
            threading.Event().wait(0.05)
        pytest.fail(f"nobody listens on port {port}")

    return wait
