"""One request of line protocol to a server, and what its answer means.

``V1`` speaks ``/write`` by httpx: InfluxDB 1.x and VictoriaMetrics. ``V2`` goes through ``influxdb-client``,
whose own queue and retry are not used: they give data up after five tries. Answers and their meaning were
tried on InfluxDB 1.6.7 and VictoriaMetrics 1.79; those of 2.x are by its manual.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import httpx
import urllib3
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.rest import ApiException
from influxdb_client.service.write_service import WriteService
from trisense.core.config import read_secret
from trisense.core.errors import StoreError, StoreUnavailable
from trisense.gateway.config import InfluxConfig, VictoriaConfig

__all__ = ["V1", "V2", "LinesRefused", "Sender", "TooLarge", "meaning"]

GZIP_LEVEL: Final = 1
ECHO_CHARS: Final = 300
"""A server's complaint repeats the line, however long it is."""


class LinesRefused(StoreError):
    """Some lines of the request will never be taken; perhaps others of it were."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(f"{reason}: {detail[:ECHO_CHARS]}")


class TooLarge(StoreError):
    """Send it in smaller pieces."""


class Sender(Protocol):
    """Sends one request.

    Raises (``send``):
        LinesRefused, TooLarge: see there.
        StoreUnavailable: the outcome may be unknown; the same lines may be sent again at any time.
    """

    def send(self, text: str) -> None: ...

    def close(self) -> None: ...


class V1:
    """``POST /write``."""

    def __init__(self, config: InfluxConfig | VictoriaConfig, *, precision: str) -> None:
        password = None
        user = None
        if isinstance(config, InfluxConfig) and config.username is not None:
            user = config.username
            password = read_secret(config.password_file) if config.password_file else ""
        self._url = f"{config.url.rstrip('/')}/write"
        self._parameters = {"db": config.database, "precision": precision}
        self.client = httpx.Client(
            timeout=config.timeout_s, auth=(user, password or "") if user is not None else None
        )

    def send(self, text: str) -> None:
        body = gzip.compress(text.encode(), compresslevel=GZIP_LEVEL, mtime=0)
        try:
            answer = self.client.post(
                self._url,
                params=self._parameters,
                content=body,
                headers={"Content-Encoding": "gzip", "Content-Type": "text/plain; charset=utf-8"},
            )
        except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError) as error:
            # 1.6 resets the connection instead of answering 413 (tried).
            raise TooLarge(f"connection lost while sending: {error}") from error
        except httpx.HTTPError as error:
            raise StoreUnavailable(f"{self._url}: {type(error).__name__} {error}") from error
        meaning(answer.status_code, answer.text, answer.headers.get)

    def close(self) -> None:
        self.client.close()


class V2:
    """``POST /api/v2/write`` by influxdb-client."""

    def __init__(self, config: InfluxConfig, *, precision: str) -> None:
        token = read_secret(config.token_file) if config.token_file else ""
        self._config = config
        self._precision = precision
        self._client: Any = InfluxDBClient(
            url=config.url, token=token, org=config.org, timeout=round(config.timeout_s * 1000), retries=False
        )
        # The service below the write API, for the body is compressed here: the package's gzip is level 9.
        service: Any = WriteService
        self._service = service(self._client.api_client)

    def send(self, text: str) -> None:
        body = gzip.compress(text.encode(), compresslevel=GZIP_LEVEL, mtime=0)
        try:
            self._service.post_write(
                org=self._config.org,
                bucket=self._config.database,
                body=body,
                precision=self._precision,
                content_encoding="gzip",
                content_type="text/plain; charset=utf-8",
            )
        except ApiException as error:
            headers: Mapping[str, str] = error.headers or {}
            body_text = (
                error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body)
            )
            meaning(int(error.status or 0), body_text, headers.get)
        except urllib3.exceptions.ProtocolError as error:
            raise TooLarge(f"connection lost while sending: {error}") from error
        except urllib3.exceptions.HTTPError as error:
            raise StoreUnavailable(f"{self._config.url}: {type(error).__name__} {error}") from error

    def close(self) -> None:
        self._client.close()


def meaning(status: int, body: str, header: Callable[[str], str | None]) -> None:
    """Return where everything is stored, else raise what the answer means."""
    if 200 <= status < 300:
        return
    said = body.strip() or header("X-Influxdb-Error") or "no reason given"
    if status == 413:
        raise TooLarge(said[:ECHO_CHARS])
    if status in (400, 422):
        raise LinesRefused(_reason(said), said)
    retry_after = header("Retry-After") or ""
    raise StoreUnavailable(
        f"answer {status}: {said[:ECHO_CHARS]}",
        retry_after_s=min(float(retry_after), 300.0) if retry_after.isdigit() else None,
    )


def _reason(said: str) -> str:
    """One short word for the receipt."""
    for sign, word in (
        ("field type conflict", "type"),
        ("retention policy", "retention"),
        ("unable to parse", "parse"),
        ("max-values-per-tag", "limit"),
        ("max-series", "limit"),
    ):
        if sign in said:
            return word
    return "store"
