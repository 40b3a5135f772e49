"""The subcommands of `gows`, one a module: `add_arguments(parser)` and `run(args) -> int`.

screen   lines on a terminal
check    whether an installation works
connect  a client in the terminal
echo     a server that sends back what comes
demo     a chat in the browser
serving  the parts of serve
serve    a server for an application: its own, ASGI or WSGI
"""
