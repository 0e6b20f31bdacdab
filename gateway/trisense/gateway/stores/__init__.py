"""Where samples end: one module per kind of store, all behind ``base``."""

from trisense.gateway.stores.make import make_store

__all__ = ["make_store"]
