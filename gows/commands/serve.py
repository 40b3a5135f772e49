"""Serve an application: a gows.Server, or one of ASGI (FastAPI, Starlette, Django, …) or WSGI (Flask, Django, …).

  gows serve main:app                      app of main.py, at http://127.0.0.1:8000
  gows serve main:app --reload             started anew whenever a file is changed
  gows serve main:make --factory           make() returns the application
  gows serve main:app --host :: --processes auto --drain 10

What is not said on the command line is taken from environment variables: GOWS_PORT for --port, GOWS_APP for
MODULE:NAME, and so on; lists with commas, 1 or 0 for what is on or off.

Ctrl-C and SIGTERM end it in order, a second one at once. SIGHUP replaces the processes of --processes. Exit status: 0
after such an end, 130 after a second Ctrl-C; 1 if the application cannot be imported or the address cannot be had, 2
for options that cannot be meant, 3 if the application's startup failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from gows.commands.serving import options as serving_options
from gows.commands.serving.application import look_for
from gows.commands.serving.changes import Watched, make_watcher
from gows.commands.serving.child import to_json
from gows.commands.serving.failing import failures
from gows.commands.serving.logs import configure
from gows.commands.serving.options import OptionError, ServeOptions
from gows.commands.serving.reloader import Reloader, starter
from gows.commands.serving.running import places, serve, serve_in_processes
from gows.processes.listening import Listening


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `gows serve`."""
    serving_options.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    with failures() as status:
        options = serving_options.read(arguments, os.environ)
        configure(options)
        if options.reload:
            return serve_and_reload(options)
        if options.processes is not None:
            serve_in_processes(options)
        else:
            serve(options)
    return int(status)


def serve_and_reload(options: ServeOptions) -> int:
    """Serve in a process that is started anew after each change of a file; return the exit status."""
    look_for(options)
    try:
        watched = Watched(options.reload_dir or [options.app_dir], options.reload_include, options.reload_exclude)
    except ValueError as error:
        raise OptionError(f"--reload-dir: {error}") from None
    listening = Listening(places(options), 1, backlog=options.backlog, mode=options.unix_mode)
    watcher = make_watcher(watched)
    try:
        descriptors = [sock.fileno() for sock in listening.slots[0]]
        text = to_json(options.accepting_from(descriptors))
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # -X dev, -W error
        command = [sys.executable, *flags, "-m", "gows.commands.serving.child", text]
        return Reloader(starter(command, descriptors), watcher).run()
    finally:
        watcher.close()
        listening.close()
