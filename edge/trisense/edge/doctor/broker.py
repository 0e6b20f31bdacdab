"""The way to the broker, step by step: name, connection, TLS, certificates."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from trisense.core.errors import ConfigError
from trisense.edge.config import BoxConfig, MqttTable
from trisense.edge.doctor.certificates import Certificate, certificates_in, parse
from trisense.edge.doctor.model import Finding, Patient, Values, Verdict
from trisense.edge.remote.door import door

__all__ = ["check_certificates", "check_way"]

STEP_S: Final = 4.0
"""Longest wait for one step, below the limit of a check."""
SOON_DAYS: Final = 30


def check_certificates(patient: Patient) -> Iterator[Finding]:
    """The box's own files."""
    table = patient.config.mqtt
    for name, file in (("own certificate", table.cert_file), ("authority", table.ca_file)):
        if file is not None:
            for certificate in _read(file):
                if isinstance(certificate, Certificate):
                    yield _validity(name, certificate, str(file))
                else:
                    yield Finding(name, Verdict.BAD, certificate, "copy it to the box, readable for its user")
    if table.cert_file is not None:
        yield from _own_name(table.cert_file, patient.config.box.id)
    try:
        table.tls_context()
        table.password()
    except ConfigError as error:
        advice = "certificate and key must be a pair, and readable for the box's user"
        yield Finding("secrets", Verdict.BAD, str(error), advice)


def check_way(patient: Patient) -> Iterator[Finding]:
    """From the broker's name to its certificate; stops where a step fails."""
    table = patient.config.mqtt
    where = f"{table.host}:{table.port}"
    began_s = time.monotonic()
    try:
        found = socket.getaddrinfo(table.host, table.port, type=socket.SOCK_STREAM)
    except OSError as error:
        advice = "is the network up, is the name right, does /etc/resolv.conf name a server that answers?"
        yield Finding("broker's name", Verdict.BAD, f"{table.host}: {error}", advice)
        return
    addresses = sorted({str(entry[4][0]) for entry in found})
    measured = f"{table.host} is {', '.join(addresses[:4])}, {_ms(began_s)}"
    yield Finding("broker's name", Verdict.OK, measured)
    began_s = time.monotonic()
    try:
        plain = socket.create_connection((table.host, table.port), timeout=STEP_S)
    except OSError as error:
        advice = "does the broker run, is the port right, does a firewall or the modem's operator block it?"
        yield Finding("connection", Verdict.BAD, f"{where}: {error}", advice)
        return
    with plain:
        yield Finding("connection", Verdict.OK, f"{where} takes connections, {_ms(began_s)}")
        yield from _tls(patient.config, plain)


def _tls(config: BoxConfig, plain: socket.socket) -> Iterator[Finding]:
    table = config.mqtt
    try:
        context = table.tls_context()
    except ConfigError:
        return  # told with the files
    if context is None:
        yield _plain(config)
        return
    began_s = time.monotonic()
    try:
        theirs: Certificate | None
        with context.wrap_socket(plain, server_hostname=table.host) as secure:
            theirs = parse(secure.getpeercert(binary_form=True) or b"")
            yield Finding("TLS", Verdict.OK, f"{secure.version()}, {_ms(began_s)}")
    except ssl.SSLCertVerificationError as error:
        theirs = _unverified(table)
        named = f" (it is for {theirs.name})" if theirs is not None else ""
        advice = "compare [mqtt] host and ca_file with the broker's certificate"
        yield Finding("TLS", Verdict.BAD, f"{error.verify_message}{named}", advice)
    except (OSError, ValueError) as error:
        advice = "is this a TLS port (8883 as a rule), and does the broker know the authority of the box?"
        yield Finding("TLS", Verdict.BAD, str(error), advice)
        return
    if theirs is not None:
        yield _validity("broker's certificate", theirs, theirs.name)


def _plain(config: BoxConfig) -> Finding:
    if config.mqtt.local:
        return Finding("TLS", Verdict.OK, "not used: the broker is on this machine")
    advice = "use TLS: readings, and the right to write in the box's name, go open over the network"
    measured = "not used"
    match door(config):
        case "closed":
            measured += ", so commands and configurations from afar are refused"
        case "open":
            measured += ", and [remote] over_plain lets whoever reaches the broker command this box"
    return Finding("TLS", Verdict.WARN, measured, advice)


def _unverified(table: MqttTable) -> Certificate | None:
    """The broker's certificate, whoever signed it: only to say what is wrong with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((table.host, table.port), timeout=STEP_S / 2) as plain,
            context.wrap_socket(plain) as secure,
        ):
            return parse(secure.getpeercert(binary_form=True) or b"")
    except (OSError, ValueError):
        return None


def _validity(name: str, certificate: Certificate, where: str) -> Finding:
    now = _now()
    days = certificate.days_left(now)
    values: Values = {"days_left": round(days, 1), "not_before": certificate.not_before.isoformat()}
    if now < certificate.not_before:
        begin = f"{certificate.not_before:%Y-%m-%d %H:%M}"
        measured = f"{where} is valid from {begin} UTC on, and the clock says {now:%Y-%m-%d %H:%M}"
        advice = "set the clock: TLS fails while it is behind"
        return Finding(name, Verdict.BAD, measured, advice, values)
    measured = f"{where}: {days:.0f} days left, until {certificate.not_after:%Y-%m-%d}"
    if days <= 0:
        return Finding(
            name, Verdict.BAD, measured, "it is over (or the clock is ahead): make a new one", values
        )
    if days <= SOON_DAYS:
        return Finding(name, Verdict.WARN, measured, "make a new one before that", values)
    return Finding(name, Verdict.OK, measured, values=values)


def _read(file: Path) -> list[Certificate | str]:
    try:
        return list(certificates_in(file))
    except (OSError, ValueError) as error:
        return [f"{file}: {error}"]


def _own_name(file: Path, box: str) -> Iterator[Finding]:
    own = _read(file)[0]
    if isinstance(own, Certificate) and own.name != box:
        measured = f"the certificate is for {own.name!r}, [box] id is {box!r}"
        advice = "make them equal: the broker lets a box write below its certificate's name alone"
        yield Finding("own name", Verdict.BAD, measured, advice)


def _now() -> datetime:
    return datetime.now(UTC)


def _ms(began_s: float) -> str:
    return f"{(time.monotonic() - began_s) * 1000:.0f} ms"
