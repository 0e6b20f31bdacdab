"""The disk queue of a box: batches from their commit until the gateway's receipt."""

from trisense.edge.spool.model import Cut, Head, Loss, Settled, SpoolOptions
from trisense.edge.spool.queue import Spool

__all__ = ["Cut", "Head", "Loss", "Settled", "Spool", "SpoolOptions"]
