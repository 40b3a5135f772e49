"""A program that has work of its own embeds the server: `start` and `stop`, and the main thread stays yours.

    python examples/embedding.py [ADDRESS]        # "127.0.0.1:8080" unless given

Open the address it prints: the page shows what the program computes, as it computes it.
"""

from __future__ import annotations

import sys
import time

import gows

PAGE = (
    "<script>new WebSocket(`ws://${location.host}/live`).onmessage = (e) => document.body.append(e.data, ' ')</script>"
)


def main(address: str = "127.0.0.1:8080") -> None:
    """Look for primes until Ctrl-C."""
    server = gows.Server(options=gows.AcceptOptions(overflow="drop"))  # who reads too slowly misses some
    server.add_route("/", lambda request: gows.Response.html(PAGE))
    server.add_route("/live", lambda request: gows.accept(request, server.options).serve(gows.Handler()))
    server.start(address)
    try:
        print("open http://{}:{}/".format(*server.addresses[0]), flush=True)
        number = 1
        while True:  # the program's own work
            number += 1
            if all(number % divisor for divisor in range(2, int(number**0.5) + 1)):
                for ws in server.connections:
                    try:
                        ws.write_json(number)
                    except gows.ConnectionClosedError:
                        pass  # it has just gone
            time.sleep(0.05)
    except KeyboardInterrupt:
        server.stop()


if __name__ == "__main__":
    main(*sys.argv[1:2])
