"""A broker for the demo on a machine without Mosquitto: amqtt, as a process of its own, on loopback.

No persistence, no access control: what arrives is owed to trisense's own receipts. Never for the field.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from amqtt.broker import Broker

__all__ = ["run"]


async def run(port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    await stop.wait()
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1])))
