"""Wire format version 1: bundles of batches, as bytes (design: Wire format)."""

from trisense.core.wire.bundle import BatchHead, Block, Bundle, Column, Header
from trisense.core.wire.codec import pack, split, unpack

__all__ = ["BatchHead", "Block", "Bundle", "Column", "Header", "pack", "split", "unpack"]
