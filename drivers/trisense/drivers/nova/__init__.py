"""Nova SDS laser dust sensors on a UART."""

from trisense.drivers.nova.driver import Nova, NovaConfig

__all__ = ["Nova", "NovaConfig"]
