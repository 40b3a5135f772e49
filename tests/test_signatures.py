"""Signatures and docstrings of public classes, compiled or not, for help(), editors and mocks."""

from __future__ import annotations

import ast
import inspect
import pydoc
import sys
from enum import Enum
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import gows

CLASSES = {
    name: each
    for name in gows.__all__
    if inspect.isclass(each := getattr(gows, name)) and not issubclass(each, (Exception, Enum))
}
ENGINE = {"begin_close"}
"""Methods without a leading underscore that are for the engine: their defaults are members of enums, which the
signature of a compiled method cannot name."""


def written(kind: type) -> dict[str, ast.FunctionDef]:
    """The methods of a class, as they stand in the source of it and of its bases."""
    found: dict[str, ast.FunctionDef] = {}
    for base in reversed(kind.__mro__):
        if not base.__module__.startswith("gows."):
            continue
        module = sys.modules[base.__module__]
        source = Path(gows.__file__).parent.parent.joinpath(*module.__name__.split(".")).with_suffix(".py")
        for node in ast.parse(source.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == base.__name__:
                found |= {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
    return found


METHODS = [
    pytest.param(kind, name, node, id=f"{title}.{name}")
    for title, kind in CLASSES.items()
    for name, node in written(kind).items()
    if not name.startswith("_") and name not in ENGINE and callable(getattr(kind, name))
]


@pytest.mark.parametrize(("kind", "name", "node"), METHODS)
def test_a_method_has_its_signature_and_its_docstring(kind: type, name: str, node: ast.FunctionDef) -> None:
    method = getattr(kind, name)
    arguments = node.args
    names = [each.arg for each in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]]
    if any(isinstance(each, ast.Name) and each.id == "classmethod" for each in node.decorator_list):
        names.remove("cls")
    parameters = inspect.signature(method).parameters
    assert list(parameters) == names
    defaults = [each.default for each in parameters.values() if each.default is not inspect.Parameter.empty]
    assert len(defaults) == len(arguments.defaults) + sum(each is not None for each in arguments.kw_defaults)
    said = ast.get_docstring(node)
    if said is not None:
        assert inspect.getdoc(method) == said


def test_help_shows_how_a_method_is_called() -> None:
    text = pydoc.plain(pydoc.render_doc(gows.WebSocket.write_json))
    assert "write_json(self" in text
    assert "compress" in text


@pytest.mark.parametrize("name", CLASSES)
def test_a_mock_has_the_methods_of_a_class(name: str) -> None:
    kind: Any = CLASSES[name]
    double = mock.create_autospec(kind, instance=True)
    for method in written(kind):
        if not method.startswith("_"):
            assert hasattr(double, method)
    with pytest.raises(AttributeError):
        _ = double.no_such_method
    assert isinstance(double, kind)
