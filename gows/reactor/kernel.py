"""Sockets whose calls do not let the interpreter lock go; this is the plain twin, whose calls do.

`socket.SocketType`, the C type under `socket.socket`, lets the lock go around every call, also where the call cannot
block; with another thread running, to get it back takes up to the switch interval. `kernel.pyx` has a type with the
same methods that keeps it.
"""

from __future__ import annotations

import socket

Socket = socket.SocketType
"""A connection's non-blocking socket: Socket(family, type, proto, fileno)."""
