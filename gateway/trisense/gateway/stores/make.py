"""From configuration to store; a store's own packages are imported only when it is used."""

from __future__ import annotations

from trisense.gateway.config import DuckDbConfig, StoreConfig
from trisense.gateway.stores.base import Store

__all__ = ["make_store"]


def make_store(config: StoreConfig) -> Store:
    """The store of this configuration, not opened yet."""
    if isinstance(config, DuckDbConfig):
        from trisense.gateway.stores.duck import DuckStore  # noqa: PLC0415  # see above

        return DuckStore(config)
    from trisense.gateway.stores.influx import LineStore  # noqa: PLC0415  # see above

    return LineStore(config)
