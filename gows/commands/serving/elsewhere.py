"""Elsewhere: what takes the place of each option of uvicorn that `gows serve` does not have under the same name.

One text for two readers: who types such an option is told it at once, and the page for those who come from uvicorn has
a table of them.
"""

from __future__ import annotations

SAME = {
    "host": "",
    "port": "",
    "fd": "may be given several times; a socket that does not listen yet is made to",
    "reload": "with open WebSockets it takes less than two seconds",
    "reload-dir": "",
    "reload-include": "",
    "reload-exclude": "",
    "workers": "**threads** for WSGI and plain callbacks, not processes: those are `--processes`",
    "loop": "`auto`, `asyncio` or `uvloop`; no factory of your own",
    "backlog": "4096, not 2048",
    "lifespan": "",
    "interface": "`auto`, `asgi`, `wsgi` or `gows`; for `asgi2` wrap the application with asgiref's "
    "`guarantee_single_callable`",
    "env-file": "`NAME=value` lines; what is set already stays",
    "log-config": "`.json`, `.yaml` and anything else as `.ini`",
    "log-level": "no `trace`",
    "access-log": "the line has the time that the answer took, and never the query",
    "root-path": "",
    "app-dir": "",
    "factory": "has to be said",
}
"""Options of the same name; what is different about them."""

ELSEWHERE = {
    "uds": "--unix; who may connect is said by --unix-mode, by default as umask says, not everybody",
    "reload-delay": "nothing: files are looked at when the system tells of a change, or else four times a second",
    "http": "nothing: there is one HTTP/1.1 implementation",
    "http2": "nothing: HTTP/2 is what a proxy in front speaks",
    "ws": "nothing: there is one WebSocket implementation",
    "ws-max-size": "--max-message-size; 1 MiB by default, not 16",
    "ws-max-queue": "AcceptOptions(inbox_messages=…) in a gows.Server; 64 by default",
    "ws-ping-interval": "--ping-interval; 30 s by default, not 20",
    "ws-ping-timeout": "--ping-timeout",
    "ws-per-message-deflate": "--compression; off by default, for it costs memory and CPU time",
    "use-colors": "nothing: the log has no colours",
    "proxy-headers": "--trusted-proxies: without it no proxy is believed",
    "server-header": "nothing: there is no Server field",
    "date-header": "nothing: the Date field is always there",
    "forwarded-allow-ips": "--trusted-proxies; by default nobody, not 127.0.0.1, and never everybody",
    "limit-concurrency": "--max-connections; more connections get 503",
    "limit-max-requests": "nothing: SIGHUP to `gows serve --processes N` replaces the processes, one at a time",
    "limit-max-requests-jitter": "nothing, as for --limit-max-requests",
    "timeout-keep-alive": "--keep-alive; 75 s by default, not 5",
    "timeout-graceful-shutdown": "--timeout; 5 s by default, and --drain to close WebSockets one after the other",
    "timeout-worker-healthcheck": "nothing: a process that ends is replaced at once; /-/live answers as long as the "
    "loop turns",
    "ssl-keyfile": "--key",
    "ssl-certfile": "--certificate",
    "ssl-keyfile-password": "Server(ssl_context=…), or a key without a password",
    "ssl-version": "Server(ssl_context=…); TLS 1.2 and newer by default",
    "ssl-cert-reqs": "Server(ssl_context=…)",
    "ssl-ca-certs": "Server(ssl_context=…)",
    "ssl-ciphers": "Server(ssl_context=…); those of Python's ssl module by default",
    "version": "gows --version",
    "header": "a middleware of the application, or the proxy in front",
    "h11-max-incomplete-event-size": "Server(max_head_size=…); 16 KiB by default",
    "reset-contextvars": "nothing: each request has a context of its own",
}
"""Options of uvicorn that are none here, and what to use instead."""
