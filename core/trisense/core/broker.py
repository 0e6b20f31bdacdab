"""How to reach the MQTT broker: the configuration table that a box and a gateway share."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator
from trisense.core.config import ConfigModel, read_secret
from trisense.core.errors import ConfigError, Mistake

__all__ = ["BrokerTable"]


class BrokerTable(ConfigModel):
    """The broker."""

    host: Annotated[str, Field(min_length=1)]
    """Name or address of the broker."""
    port: Annotated[int, Field(ge=1, le=65_535)]
    """1883 as a rule, 8883 with TLS."""
    username: str | None = None
    password_file: Path | None = None
    """File with the password on its first line."""
    tls: bool = False
    """TLS with the system's certificate authorities; on by itself with ca_file or cert_file."""
    ca_file: Path | None = None
    """Certificate authority that signed the broker's certificate."""
    cert_file: Path | None = None
    """Our own certificate."""
    key_file: Path | None = None
    """Its private key."""

    @field_validator("host")
    @classmethod
    def _can_be_asked_for(cls, host: str) -> str:
        try:
            host.encode("idna")
        except UnicodeError as error:
            raise ValueError("a host name: parts of 1 to 63 characters between dots") from error
        return host

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file together, or neither")
        if self.password_file is not None and self.username is None:
            raise ValueError("a username with password_file")
        return self

    @property
    def encrypted(self) -> bool:
        """Whether the connection is TLS, which always verifies the broker's certificate."""
        return bool(self.tls or self.ca_file or self.cert_file)

    @property
    def local(self) -> bool:
        """Whether the broker is on this machine, by what is written: a name may point there and move."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def password(self) -> str | None:
        """The password, or None where there is none.

        Raises:
            ConfigError: its file cannot be read.
        """
        return None if self.password_file is None else read_secret(self.password_file)

    def tls_context(self) -> ssl.SSLContext | None:
        """TLS 1.2 or newer, or None for a plain connection.

        Raises:
            ConfigError: a file of it cannot be used.
        """
        if not self.encrypted:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.cert_file is not None and self.key_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except OSError as error:  # also the base of ssl.SSLError
            files = ", ".join(str(f) for f in (self.ca_file, self.cert_file, self.key_file) if f is not None)
            raise ConfigError(files, [Mistake("mqtt", "usable certificates", str(error))]) from error
        return context
