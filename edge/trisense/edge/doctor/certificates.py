"""What is read of a certificate: names and validity. Python's ssl shows them for a verified peer only.

DER as in X.690, the certificate as in RFC 5280 section 4.1.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

__all__ = ["Certificate", "certificates_in", "parse"]

PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
COMMON_NAME: Final = bytes([0x55, 0x04, 0x03])
UTC_TIME, GENERALIZED_TIME = 0x17, 0x18
VERSION: Final = 0xA0


@dataclass(frozen=True, slots=True)
class Certificate:
    name: str
    """The subject's common name."""
    not_before: datetime
    not_after: datetime

    def days_left(self, now: datetime) -> float:
        return (self.not_after - now).total_seconds() / 86_400


def certificates_in(file: Path) -> list[Certificate]:
    """Every certificate of a PEM file.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds none, or a damaged one.
    """
    found = [parse(base64.b64decode(text)) for text in PEM.findall(file.read_bytes())]
    if not found:
        raise ValueError("no certificate in it")
    return found


def parse(der: bytes) -> Certificate:
    """Read one certificate.

    Raises:
        ValueError: it is none.
    """
    try:
        ((_, whole),) = _items(der)
        _, signed = next(_items(whole))
        items = list(_items(signed))
        first = 1 if items[0][0] == VERSION else 0
        # serialNumber, signature, issuer, validity, subject
        validity, subject = items[first + 3][1], items[first + 4][1]
        (begin, end) = _items(validity)
        return Certificate(_common_name(subject), _time(*begin), _time(*end))
    except (IndexError, StopIteration) as error:
        raise ValueError("no certificate") from error


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, content) of each element, with tags of one byte, as all of these are."""
    at = 0
    while at < len(data):
        tag, size = data[at], data[at + 1]
        at += 2
        if size & 0x80:
            length_bytes = size & 0x7F
            size = int.from_bytes(data[at : at + length_bytes], "big")
            at += length_bytes
        if at + size > len(data):
            raise ValueError("cut off")
        yield tag, data[at : at + size]
        at += size


def _common_name(subject: bytes) -> str:
    for _, names in _items(subject):
        for _, pair in _items(names):
            (_, kind), (_, text) = _items(pair)
            if kind == COMMON_NAME:
                return text.decode("utf-8", "replace")
    return ""


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == UTC_TIME:  # RFC 5280, 4.1.2.5.1: two digits of the year mean 1950 to 2049
        text = ("19" if text >= "50" else "20") + text
    elif tag != GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
