"""The client role: `connect`, and topics of a server.

url           ws://, wss:// and their forms for Unix-domain sockets
cookies       the Cookie field
proxy         Proxy: where one is, and who we are to it
environment   the proxy that the environment names; NO_PROXY
tunnel        what is said to a proxy, without I/O
request       the arguments of `connect`, checked: what every attempt needs
redirect      where a server sends us on, and what goes along
tunnelling    an attempt's way through a proxy
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
from gows.client.proxy import Proxy
from gows.client.reconnect import ReconnectingClient
from gows.client.retry import Reconnect

__all__ = ["BlockingWebSocket", "Proxy", "Reconnect", "ReconnectingClient", "connect"]
