"""Application: what MODULE:NAME means, and which kind it is of."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from gows.commands.serving import environment
from gows.commands.serving.options import ServeOptions
from gows.options import is_coroutine_function
from gows.server.server import Server

_PACKAGE = os.path.join(str(Path(__file__).parents[2]), "")

KINDS = {"gows": "a gows.Server", "asgi": "an ASGI application", "wsgi": "a WSGI application"}


class LoadError(Exception):
    """There is no such application; its text says why, on one line. Its cause, if there is one, was raised by the
    application's own code."""


def load(options: ServeOptions) -> tuple[str, Any]:
    """Import the application; return its kind, a key of KINDS, and itself. Raises LoadError."""
    if options.env_file is not None:
        try:
            environment.load(options.env_file, os.environ)
        except (OSError, ValueError) as error:
            text = error.strerror if isinstance(error, OSError) else error
            raise LoadError(f"--env-file: {options.env_file} cannot be used: {text}") from None
    module, name = look_for(options)
    app = _find(_import(module), module, name)
    if options.factory:
        app = _call(app, options.app)
    return kind_of(app, options), app


def look_for(options: ServeOptions) -> tuple[str, str]:
    """Return MODULE and NAME, and have Python find modules in the folder of --app-dir first. Imports nothing. Raises
    LoadError if MODULE, or the package that it is in, is nowhere."""
    module, name = _parts(options.app)
    folder = os.path.abspath(options.app_dir)
    if not sys.path or os.path.abspath(sys.path[0]) != folder:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    top = module.partition(".")[0]
    if top not in sys.modules and find_spec(top) is None:
        raise _no_module(module, top)
    return module, name


def _no_module(module: str, missing: str) -> LoadError:
    return LoadError(
        f"cannot import {module!r}: there is no module {missing!r} in {sys.path[0]}, nor where Python looks for "
        "modules; --app-dir names another folder"
    )


def _parts(text: str) -> tuple[str, str]:
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        meant = f"{module.removesuffix('.py').strip('./').replace('/', '.') or 'main'}:{name or 'app'}"
        raise LoadError(f"an application is MODULE:NAME, such as {meant}, not {text!r}")
    if module.endswith(".py") or "/" in module:
        meant = module.removesuffix(".py").strip("./").replace("/", ".")
        raise LoadError(f"{module!r} is a file, and an application is in a module: {meant}:{name}")
    return module, name


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise _no_module(name, error.name) from None
        raise LoadError(f"cannot import {name!r}: it imports {error.name!r}, which is not installed") from error
    except Exception as error:
        raise LoadError(f"cannot import {name!r}: {_shown(error)}") from error


def _find(module: ModuleType, module_name: str, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            names = [each for each in dir(found) if not each.startswith("_")]
            near = get_close_matches(part, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise LoadError(f"{module_name!r} was imported, but has no {name!r}{hint}") from None
    return found


def _call(factory: Any, name: str) -> Any:
    if not callable(factory):
        raise LoadError(f"--factory: {name} is no function, but {_a(factory)}")
    if is_coroutine_function(factory):
        raise LoadError(f"--factory: {name} is an `async def`; an application is made before the loop runs")
    try:
        return factory()
    except Exception as error:
        raise LoadError(f"--factory: {name}() failed: {_shown(error)}") from error


def kind_of(app: Any, options: ServeOptions) -> str:
    """Return which kind an application is of: what was said, or what it looks like. Raises LoadError."""
    name = options.app + ("()" if options.factory else "")
    is_server = isinstance(app, Server)
    if options.interface != "auto":
        if is_server != (options.interface == "gows"):
            raise LoadError(f"{name} is {_a(app)}, and --interface says {options.interface}")
        if not is_server and not callable(app):
            raise LoadError(f"{name} cannot be called: it is {_a(app)}")
        return options.interface
    if is_server:
        return "gows"
    if not callable(app):
        raise LoadError(f"{name} is no application: it is {_a(app)}, not a gows.Server, nor can it be called")
    if takes(app, 0) and not options.factory and not takes(app, 2):
        raise LoadError(f"{name} takes no arguments: if it is a function that makes the application, say --factory")
    if isinstance(app, type) or (takes(app, 1) and not takes(app, 2)):
        raise LoadError(
            f"{name} is neither WSGI, which is called with 2 arguments, nor ASGI 3, with 3; an ASGI 2 application is "
            "wrapped by guarantee_single_callable of asgiref.compatibility"
        )
    if is_coroutine_function(app) or (takes(app, 3) and not takes(app, 2)):
        return "asgi"
    if takes(app, 2) and not takes(app, 3):
        return "wsgi"
    raise LoadError(f"{name} may be WSGI or ASGI by its arguments: say which with --interface")


def takes(function: Any, count: int) -> bool:
    """Return whether `function` can be called with so many arguments."""
    try:
        inspect.signature(function).bind(*range(count))
    except (TypeError, ValueError):
        return False
    return True


def print_cause(error: Exception) -> None:
    """Print the traceback of what the application's own code raised, from the first line of that code on. Nothing, if
    `error` has no cause."""
    cause = error.__cause__
    if cause is None:
        return
    trace = cause.__traceback__
    while trace is not None and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    traceback.print_exception(type(cause), cause, trace)


def _is_ours(file: str) -> bool:
    return file.startswith(("<frozen importlib", _PACKAGE)) or file == importlib.__file__


def _shown(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _a(value: object) -> str:
    name = type(value).__name__
    return f"a module, {value.__name__}" if isinstance(value, ModuleType) else f"an object of type {name}"
