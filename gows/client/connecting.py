"""connect: make a connection to a WebSocket server, and wait for it or not."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Literal, overload

from gows.client.blocking import BlockingWebSocket
from gows.client.cookies import Cookies
from gows.client.exit import flush_at_exit
from gows.client.opening import Opening, refuse_in_loop
from gows.client.proxy import ProxyRule
from gows.client.reconnect import ReconnectingClient
from gows.client.request import ClientRequest, HeaderRule, Url, changes, check_functions, make_request
from gows.client.retry import Reconnect
from gows.errors import ConnectTimeoutError, GowsError, LoopClosedError
from gows.options import AcceptOptions
from gows.protocol.connection import Connection
from gows.reactor.shared import shared_loop
from gows.reactor.stream import Stream
from gows.reactor.transports import Loop
from gows.reactor.workers import stepping_aside
from gows.session.context import SessionContext
from gows.session.handler import Handler, callbacks_of
from gows.session.websocket import WebSocket

_GRACE = 1.0
"""Seconds beyond the timeout after which the loop must have reported; else it is not running."""


@overload
def connect(
    url: Url,
    handler: None = None,
    *,
    options: AcceptOptions | None = None,
    subprotocols: Sequence[str] = (),
    headers: HeaderRule | None = None,
    cookies: Cookies | None = None,
    origin: str | None = None,
    compression: bool | None = None,
    ssl_context: ssl.SSLContext | None = None,
    timeout: float = 10.0,
    proxy: ProxyRule = True,
    redirects: int = 0,
    loop: Loop | None = None,
) -> BlockingWebSocket: ...
@overload
def connect(
    url: Url,
    handler: Handler,
    *,
    options: AcceptOptions | None = None,
    subprotocols: Sequence[str] = (),
    headers: HeaderRule | None = None,
    cookies: Cookies | None = None,
    origin: str | None = None,
    compression: bool | None = None,
    ssl_context: ssl.SSLContext | None = None,
    timeout: float = 10.0,
    proxy: ProxyRule = True,
    redirects: int = 0,
    reconnect: Literal[False] = False,
    wait: Literal[True] = True,
    loop: Loop | None = None,
) -> WebSocket: ...
@overload
def connect(
    url: Url,
    handler: Handler,
    *,
    options: AcceptOptions | None = None,
    subprotocols: Sequence[str] = (),
    headers: HeaderRule | None = None,
    cookies: Cookies | None = None,
    origin: str | None = None,
    compression: bool | None = None,
    ssl_context: ssl.SSLContext | None = None,
    timeout: float = 10.0,
    proxy: ProxyRule = True,
    redirects: int = 0,
    reconnect: Literal[False] = False,
    wait: Literal[False],
    loop: Loop | None = None,
) -> None: ...
@overload
def connect(
    url: Url,
    handler: Handler,
    *,
    options: AcceptOptions | None = None,
    subprotocols: Sequence[str] = (),
    headers: HeaderRule | None = None,
    cookies: Cookies | None = None,
    origin: str | None = None,
    compression: bool | None = None,
    ssl_context: ssl.SSLContext | None = None,
    timeout: float = 10.0,
    proxy: ProxyRule = True,
    redirects: int = 0,
    reconnect: Literal[True] | Reconnect,
    wait: bool = True,
    loop: Loop | None = None,
) -> ReconnectingClient: ...


def connect(
    url: Url,
    handler: Handler | None = None,
    *,
    options: AcceptOptions | None = None,
    subprotocols: Sequence[str] = (),
    headers: HeaderRule | None = None,
    cookies: Cookies | None = None,
    origin: str | None = None,
    compression: bool | None = None,
    ssl_context: ssl.SSLContext | None = None,
    timeout: float = 10.0,
    proxy: ProxyRule = True,
    redirects: int = 0,
    reconnect: bool | Reconnect = False,
    wait: bool = True,
    loop: Loop | None = None,
) -> WebSocket | ReconnectingClient | None:
    """Connect to a WebSocket server (RFC 6455 §4.1).

    - Without `handler`: returns a BlockingWebSocket, to be read with `recv()`.
    - With `handler`: returns the WebSocket once the handshake succeeded; the handler's callbacks run on the loop's
      workers, and may begin before this returns.
    - With `reconnect`: returns a ReconnectingClient, which connects again after a loss. The first attempt must succeed.
    - With `wait=False`: returns at once, None or the ReconnectingClient. Success reaches `on_open`, failure `on_close`
      (1006, with the reason).

    `url`: ws:// or wss://, with `user:password@` sent as Basic authorization, or `ws+unix:///path/of/socket:/target`
    (wss+unix) for a Unix-domain socket. `options`: the engine's settings, the server's names with the roles of client
    and server as in RFC 7692; `compression` overrides `options.compression`, `subprotocols` its subprotocols.
    `headers`, `cookies` (names and values), `origin`: sent with the request. `url`, `headers` and `cookies` may be
    functions that return them, for tokens that expire: with `reconnect` they are called again for each attempt, on a
    worker (and a mapping is read again); one that raises is a failed attempt. `ssl_context`: for wss, by default one
    that verifies against the system's authorities. `timeout`: seconds for everything from the name lookup to the
    answered handshake. `proxy`: the URL of a proxy (http, https, socks5, socks5h), a `gows.Proxy`, None for no proxy;
    by default True: the one that the environment names (docs/how-to/client-proxy.md). `redirects`: how many redirects
    are followed, 20 at most; never from wss to ws, and to another origin without `headers`, `cookies` and the URL's
    credentials. `loop`: a running loop; by default the process-wide one.

    When the program exits, what was written until then is sent, and connections that are open are closed with 1001; the
    exit waits while the server goes on taking what is queued. A signal that ends the process at once loses it.

    Any thread but the loop's own, unless `wait=False`.

    Raises ValueError for a URL or a setting that cannot be; InvalidHeaderError for what may not be sent; ConnectError
    when there is no connection (ConnectTimeoutError when not in time, ProxyError because of the proxy); HandshakeError
    when the server refuses: `status`, `headers` and the beginning of its `body` (a redirect that is not followed, too;
    a 101 that is not valid has the status 101); UsageError in the loop's thread.
    """
    if handler is None:
        if reconnect or not wait:
            raise ValueError("reconnect and wait=False need a handler")
    else:
        callbacks_of(handler)
    check_functions(url=url, headers=headers, cookies=cookies)
    loop = loop or shared_loop()
    if wait:
        refuse_in_loop(loop, "connect() without wait=False")
    make = partial(
        make_request,
        url,
        loop,
        options=options,
        subprotocols=subprotocols,
        headers=headers,
        cookies=cookies,
        origin=origin,
        compression=compression,
        ssl_context=ssl_context,
        timeout=timeout,
        proxy=proxy,
        redirects=redirects,
    )
    request = make()
    flush_at_exit(loop)
    if handler is None:
        return _open(request, Handler(), BlockingWebSocket)
    if reconnect:
        policy = reconnect if isinstance(reconnect, Reconnect) else Reconnect()
        client = ReconnectingClient(request, handler, policy, make if changes(url, headers, cookies) else None)
        try:
            if wait:
                _open(request, handler, client.make)
            else:
                client.start()
            return client
        except BaseException:  # it may have connected already, and nobody could stop it any more
            client.halt()
            raise
    if wait:
        return _open(request, handler, WebSocket)
    Opening(request, handler, Opening.report).start()
    return None


def _open(
    request: ClientRequest,
    handler: Handler,
    make: Callable[[Stream, Connection, SessionContext, str | None], WebSocket],
) -> WebSocket:
    """Make one attempt and wait for its outcome. What is not returned is closed."""
    outcome: SimpleQueue[WebSocket | GowsError] = SimpleQueue()
    opening = Opening(request, handler, lambda _, error: outcome.put(error), make=make, opened=outcome.put)
    try:
        opening.start()
        with stepping_aside():
            result = outcome.get(timeout=request.timeout + _GRACE)
        if not isinstance(result, GowsError):
            return result
    except Empty:
        opening.cancel()
        raise ConnectTimeoutError(f"no connection within {request.timeout:g} s: the loop is not running") from None
    except LoopClosedError:
        raise
    except BaseException:  # KeyboardInterrupt, perhaps after the connection was made
        opening.cancel()
        raise
    raise result
