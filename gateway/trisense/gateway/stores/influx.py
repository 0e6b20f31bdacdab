"""Line-protocol stores: rows to the server, ledger and pictures beside this process.

The server overwrites equal keys, so whatever has an unknown outcome is sent again. The ledger is written
after the server's answer and before the receipt.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

import structlog
from trisense.core.errors import StoreUnavailable, ValueRefused
from trisense.gateway.config import InfluxConfig, VictoriaConfig
from trisense.gateway.ledger import Place, Record
from trisense.gateway.stores.base import (
    Circle,
    DeepCount,
    Found,
    Function,
    Media,
    NotSupported,
    OnRefused,
    Span,
    Store,
    StreamRef,
    Table,
    require_free,
)
from trisense.gateway.stores.columns import Portion, culprits, pictures, without
from trisense.gateway.stores.influxql import InfluxQL
from trisense.gateway.stores.lineprotocol import Lines, halves, lines_of, requests
from trisense.gateway.stores.senders import V1, V2, LinesRefused, Sender, TooLarge
from trisense.gateway.stores.sqlite_ledger import SqliteLedger

__all__ = ["LineStore"]

log = structlog.get_logger()

MS_NS = 1_000_000


class LineStore(Store):
    """InfluxDB or VictoriaMetrics."""

    ledger: SqliteLedger

    def __init__(self, config: InfluxConfig | VictoriaConfig) -> None:
        self.kind = config.kind
        self._config = config
        self.ledger = SqliteLedger(config.state_path)
        self._numbers_only = isinstance(config, VictoriaConfig)
        # VictoriaMetrics keeps milliseconds and has no ns in its /write that it would not cut.
        self._divisor = MS_NS if self._numbers_only else 1
        self._sender: Sender | None = None
        self._asking: InfluxQL | None = None
        if isinstance(config, InfluxConfig) and config.api == "v1":
            self._asking = InfluxQL(config, self.ledger)

    def open(self) -> None:
        if not self.ledger.is_open:
            self.ledger.open()
        if self._sender is None:
            precision = "ms" if self._numbers_only else "ns"
            if isinstance(self._config, InfluxConfig) and self._config.api == "v2":
                self._sender = V2(self._config, precision=precision)
            else:
                self._sender = V1(self._config, precision=precision)

    def close(self) -> None:
        if self._sender is not None:
            self._sender.close()
            self._sender = None
        if self._asking is not None:
            self._asking.close()
        self.ledger.close()

    def commit(
        self, portions: Sequence[Portion], record: Record, on_refused: OnRefused
    ) -> Mapping[tuple[int, int], str]:
        self.open()
        require_free(self._config.state_path, self._config.free_floor_bytes)
        refused = culprits(portions, self._attempt)
        if refused:
            on_refused(refused)
        record = record.refusing(refused)
        with self.ledger.transaction():
            for portion in without(portions, refused):
                for picture in pictures(portion):
                    self.ledger.write_picture(picture)
            self.ledger.write(record)
        self.ledger.applied(record)
        return refused

    def note_places(self, box: str, places: Iterable[Place]) -> None:
        with self.ledger.transaction():
            self.ledger.write_places(box, places)

    def tend(self) -> None:
        for (box, epoch), runs in self.ledger.foldable().items():
            with self.ledger.transaction():
                self.ledger.write_fold(box, epoch, runs)
            self.ledger.applied_fold(box, epoch, runs)
        age_ns = round(self._config.media_retention_days * 86_400e9)
        self.ledger.retire_pictures(time.time_ns() - age_ns)

    # Writing

    def _attempt(self, portions: list[Portion]) -> str | None:
        try:
            self._send(portions)
        except (LinesRefused, ValueRefused) as error:
            log.warning("store_refused", batches=sum(len(p.heads) for p in portions), error=str(error))
            return error.reason
        return None

    def _send(self, portions: Iterable[Portion]) -> None:
        lines = lines_of(portions, texts=not self._numbers_only, time_divisor=self._divisor)
        for request in requests(lines):
            self._send_lines(request)

    def _send_lines(self, lines: Lines) -> None:
        if self._sender is None:
            raise StoreUnavailable("the store is not open")
        try:
            self._sender.send(lines.text)
        except TooLarge as error:
            if lines.lines == 1:
                # A lost connection looks the same as a line too long, so nothing is decided for good.
                raise StoreUnavailable(f"one line of {len(lines.text)} characters: {error}") from error
            log.debug("request_halved", lines=lines.lines, error=str(error))
            for half in halves(lines):
                self._send_lines(half)

    # Questions

    def latest(self, box: str | None, device: str | None) -> list[Found]:
        return self._questions().latest(box, device)

    def range(self, stream: StreamRef, fields: Sequence[str], span: Span, limit: int) -> Table:
        return self._questions().range(stream, fields, span, limit)

    def aggregate(
        self, stream: StreamRef, field: str, span: Span, *, buckets: int, functions: Sequence[Function]
    ) -> Table:
        return self._questions().aggregate(stream, field, span, buckets=buckets, functions=functions)

    def near(self, circle: Circle, span: Span, limit: int) -> list[Found]:
        return self._questions().near(circle, span, limit)

    def media(self, media_id: str) -> Media | None:
        return self.ledger.read_picture(media_id)

    def count(self, box: str) -> DeepCount:
        return self._questions().count(box)

    def _questions(self) -> InfluxQL:
        if self._asking is None:
            raise NotSupported(
                f'history is read from DuckDB and InfluxDB with api = "v1"; this store is {self._config.kind}'
            )
        return self._asking
