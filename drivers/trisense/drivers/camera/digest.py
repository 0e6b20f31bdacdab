"""Digest authentication of HTTP (RFC 2617 and 7616), for cameras that ask for it.

Written here because a camera's challenge is as hostile as its pictures: httpx's own flow reads the refused
answer's body without bound and raises KeyError at an unknown algorithm.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Final

__all__ = ["ALGORITHMS", "DigestAuth", "response_of"]

PART: Final = re.compile(r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
CHALLENGE_CHARS: Final = 4096
ALGORITHMS: Final[Mapping[str, Callable[[bytes], str]]] = {
    "MD5": lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest(),
    "SHA-256": lambda data: hashlib.sha256(data).hexdigest(),
}


def response_of(
    *,
    user: str,
    password: str,
    realm: str,
    nonce: str,
    uri: str,
    method: str,
    qop: str = "",
    nc: str = "",
    cnonce: str = "",
    algorithm: str = "MD5",
) -> str:
    """``response`` of RFC 2617, section 3.2.2.1; without ``qop`` as RFC 2069 had it.

    Raises:
        KeyError: another algorithm than MD5 and SHA-256.
    """
    hashed = ALGORITHMS[algorithm]
    who = hashed(f"{user}:{realm}:{password}".encode())
    what = hashed(f"{method}:{uri}".encode())
    salt = f"{nonce}:{nc}:{cnonce}:{qop}" if qop else nonce
    return hashed(f"{who}:{salt}:{what}".encode())


class DigestAuth:
    """One user of one camera; keeps the camera's nonce from one request to the next."""

    def __init__(self, user: str, password: str) -> None:
        self._user = user
        self._password = password
        self._challenge: dict[str, str] = {}
        self._count = 0

    def accept(self, challenge: str) -> bool:
        """Take a ``WWW-Authenticate`` header; False where it is no digest that we can answer."""
        scheme, _, rest = challenge[:CHALLENGE_CHARS].partition(" ")
        parts = {key.lower(): quoted or plain for key, quoted, plain in PART.findall(rest)}
        qops = [each.strip().lower() for each in parts.get("qop", "auth").split(",")]
        known = parts.get("algorithm", "MD5").upper() in ALGORITHMS
        if (
            scheme.lower() != "digest"
            or not {"realm", "nonce"} <= set(parts)
            or not known
            or "auth" not in qops
        ):
            return False
        self._challenge, self._count = parts, 0
        return True

    def header(self, method: str, uri: str) -> str | None:
        """``Authorization`` for the next request; None before the first challenge."""
        if not self._challenge:
            return None
        self._count += 1
        challenge = self._challenge
        sent = {
            "realm": challenge["realm"],
            "nonce": challenge["nonce"],
            "uri": uri,
        }
        salt = {"qop": "auth", "nc": f"{self._count:08x}", "cnonce": secrets.token_hex(8)}
        salt = salt if "qop" in challenge else {}
        algorithm = challenge.get("algorithm", "MD5").upper()
        response = response_of(
            user=self._user, password=self._password, method=method, algorithm=algorithm, **sent, **salt
        )
        # Quotes stand where RFC 7616, section 3.4 puts them: some cameras refuse any others.
        user = self._user.replace("\\", r"\\").replace('"', r"\"")
        text = [f'username="{user}"', *(f'{key}="{value}"' for key, value in sent.items())]
        text += [f'response="{response}"', f"algorithm={algorithm}"]
        if salt:
            text += ["qop=auth", f"nc={salt['nc']}", f'cnonce="{salt["cnonce"]}"']
        if "opaque" in challenge:
            text.append(f'opaque="{challenge["opaque"]}"')
        return "Digest " + ", ".join(text)
