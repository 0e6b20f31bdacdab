"""The gateway's TOML file. A key is declared here only; ``deploy/gateway.sample.toml`` shows all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from trisense.core.broker import BrokerTable
from trisense.core.config import ConfigModel, load_toml, read_secret
from trisense.core.errors import ConfigError, Mistake
from trisense.core.logs import Level
from trisense.core.model import NAME

__all__ = [
    "DuckDbConfig",
    "GatewayConfig",
    "HttpConfig",
    "InfluxConfig",
    "MqttConfig",
    "QuarantineConfig",
    "StoreConfig",
    "VictoriaConfig",
    "check_secrets",
    "load",
]

_Port = Annotated[int, Field(ge=1, le=65535)]
_Bytes = Annotated[int, Field(ge=0)]


class MqttConfig(BrokerTable):
    """The broker; by default the one on this machine."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: _Port = 1883
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = 15


class DuckDbConfig(ConfigModel):
    """Embedded store: one file, this process only."""

    kind: Literal["duckdb"]
    path: Path = Path("trisense.duckdb")
    retention_days: Annotated[float, Field(gt=0)] | None = 30
    """Older samples and pictures are deleted."""
    free_floor_bytes: _Bytes = 1024**3
    """Below this much free disk nothing is stored and no receipt sent: the boxes keep their data."""
    memory_limit: Annotated[str, Field(pattern=r"^[1-9][0-9]*(MB|GB)$")] = "512MB"
    """Most memory DuckDB may take."""


class _LineProtocolConfig(ConfigModel):
    url: Annotated[str, Field(pattern=r"^https?://[^/\s]+(/.*)?$")]
    database: Annotated[str, Field(min_length=1)] = "trisense"
    """Database; with ``api = "v2"`` the bucket."""
    timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0
    state_path: Path = Path("trisense-gateway")
    """Folder of what such a store cannot keep: the ledger and the pictures."""
    media_retention_days: Annotated[float, Field(gt=0)] = 30
    free_floor_bytes: _Bytes = 1024**3


class InfluxConfig(_LineProtocolConfig):
    """InfluxDB: ``v1`` speaks /write (1.x, Debian's 1.6), ``v2`` /api/v2/write (2.x, 1.8 and newer)."""

    kind: Literal["influxdb"]
    api: Literal["v1", "v2"] = "v2"
    org: str = ""
    token_file: Path | None = None
    username: str | None = None
    password_file: Path | None = None

    @model_validator(mode="after")
    def _credentials_fit_the_api(self) -> Self:
        if self.api == "v1" and self.token_file is not None:
            raise ValueError('username and password_file with api = "v1"')
        if self.api == "v2" and self.username is not None:
            raise ValueError('token_file with api = "v2"')
        return self


class VictoriaConfig(_LineProtocolConfig):
    """VictoriaMetrics by its /write: numbers only, times cut to milliseconds."""

    kind: Literal["victoriametrics"]


StoreConfig = Annotated[DuckDbConfig | InfluxConfig | VictoriaConfig, Field(discriminator="kind")]


class QuarantineConfig(ConfigModel):
    """What was refused, kept with its reason."""

    path: Path = Path("quarantine")
    max_bytes: _Bytes = 256 * 1024**2
    """Above it the oldest is deleted, and counted."""


class HttpConfig(ConfigModel):
    """The page and the API."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0: any free one, told in the log."""

    @field_validator("host")
    @classmethod
    def _loopback(cls, host: str) -> str:
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError(
                "a loopback address: the page has no login yet, put a proxy that has one before it"
            )
        return host


class LogConfig(ConfigModel):
    level: Level = "info"


class WorkerConfig(ConfigModel):
    """One process among several gateways."""

    worker: str = "gw"
    """Name in the topic of its state, and part of its MQTT client ids."""

    @field_validator("worker")
    @classmethod
    def _name(cls, worker: str) -> str:
        if not NAME.fullmatch(worker):
            raise ValueError(f"a name of the form {NAME.pattern}")
        return worker


class GatewayConfig(ConfigModel):
    """A whole gateway."""

    gateway: WorkerConfig = WorkerConfig()
    mqtt: MqttConfig = MqttConfig()
    store: StoreConfig
    quarantine: QuarantineConfig = QuarantineConfig()
    http: HttpConfig = HttpConfig()
    log: LogConfig = LogConfig()


def load(path: Path) -> GatewayConfig:
    """Read a gateway's file; relative paths in it start at its folder.

    Raises:
        ConfigError: with every mistake.
    """
    return _anchored(load_toml(path, GatewayConfig), path.parent)


def check_secrets(config: GatewayConfig, path: Path) -> None:
    """Read every file that the configuration names, as ``run`` will.

    Raises:
        ConfigError: with all that cannot be used.
    """
    readers: list[Callable[[], object]] = [config.mqtt.password, config.mqtt.tls_context]
    if isinstance(config.store, InfluxConfig):
        files = (config.store.token_file, config.store.password_file)
        readers += [partial(read_secret, file) for file in files if file is not None]
    mistakes: list[Mistake] = []
    for read in readers:
        try:
            read()
        except ConfigError as error:
            mistakes += [Mistake(f"{m.where} {error.file}", m.expected, m.got) for m in error.mistakes]
    if mistakes:
        raise ConfigError(str(path), mistakes)


def _anchored(config: GatewayConfig, folder: Path) -> GatewayConfig:
    def anchor(table: ConfigModel) -> ConfigModel:
        changed: dict[str, object] = {}
        for name in type(table).model_fields:
            value = getattr(table, name)
            if isinstance(value, Path):
                changed[name] = folder / value
            elif isinstance(value, ConfigModel):
                changed[name] = anchor(value)
        return table.model_copy(update=changed)

    anchored = anchor(config)
    assert isinstance(anchored, GatewayConfig)  # noqa: S101  # model_copy keeps the class
    return anchored
