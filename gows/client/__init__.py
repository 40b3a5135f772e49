"""The client role: `connect`, and topics of a server.

url           ws://, wss:// and their forms for Unix-domain sockets
request       the arguments of `connect`, checked: what every attempt needs
opening       one attempt: TCP, TLS, the opening handshake
blocking      BlockingWebSocket: for programs that call `recv()`
retry         Reconnect: whether to try again, and when
reconnect     ReconnectingClient: one connection after the other
exit          what is sent, and closed, when the program ends
connecting    `connect`
subscription  TopicSubscription, and the answers that a TopicClient waits for
cursor        how far a subscription has come in its topic
topics        TopicClient
"""

from __future__ import annotations

from gows.client.blocking import BlockingWebSocket
from gows.client.connecting import connect
from gows.client.reconnect import ReconnectingClient
from gows.client.retry import Reconnect

__all__ = ["BlockingWebSocket", "Reconnect", "ReconnectingClient", "connect"]
