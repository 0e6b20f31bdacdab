"""Commands and configuration from afar: what the box lets itself be told, and how it answers."""

from trisense.edge.remote.hands import Remote

__all__ = ["Remote"]
