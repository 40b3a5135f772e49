"""Clients in asyncio: many at once, one that comes back, and topics.

    python examples/async_client.py many URL          # a hundred connections, in one thread
    python examples/async_client.py watch URL         # one connection after the other, until Ctrl-C
    python examples/async_client.py listen URL TOPIC  # what is published to a topic, or a pattern

`gows echo` is a server for the first two: ws://127.0.0.1:9001/
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import gows
import gows.aio


async def ask(url: str, name: str) -> bool:
    """Leaving the block closes the connection, with a handshake."""
    async with gows.aio.connect(url) as ws:
        await ws.send(name)
        return await ws.recv() == name


async def many(url: str, count: int = 100) -> None:
    """Each connection is a task here; those of gows need none."""
    answered = await asyncio.gather(*(ask(url, f"member {number}") for number in range(count)))
    print(f"{sum(answered)} of {count} were answered")


async def watch(url: str) -> None:
    """The server may restart meanwhile; when it says that it is no use (404, 403, …), this raises."""
    async for ws in gows.aio.connect(url, reconnect=gows.Reconnect(initial=0.5, maximum=10.0)):
        print("connected", flush=True)
        try:
            await ws.send("here I am")
            async for message in ws:
                print(f"heard {message!r}", flush=True)
        except gows.ConnectionClosedError as error:
            print(f"lost: {error}", flush=True)


async def listen(url: str, topic: str) -> None:
    """What the server keeps comes first, and nothing kept is missed when the connection is lost."""
    async with gows.aio.TopicClient(url) as client:
        async for data, name in client.subscribe(topic, history=10, lost=lambda name: print(f"{name}: a gap")):
            print(f"{name}: {data}", flush=True)


if __name__ == "__main__":
    modes: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {"many": many, "watch": watch, "listen": listen}
    if len(sys.argv) < 3 or sys.argv[1] not in modes or (len(sys.argv) == 4) != (sys.argv[1] == "listen"):
        sys.exit(__doc__)
    try:
        asyncio.run(modes[sys.argv[1]](*sys.argv[2:]))
    except (gows.GowsError, ValueError) as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        pass
