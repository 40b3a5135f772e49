"""The modules that exist twice, as `NAME.pyx` for the compiled variant and `NAME.py` for plain Python, side by side.

A differential test runs over `twins(name)`. In plain Python there is only the one; compiled, the other is loaded from
its source too, and sees the plain ones of those it imports.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def doubled() -> list[str]:
    """The names of the modules that exist twice, those that others import first."""
    paths = {path.stem: path for path in sorted((ROOT / "gows").rglob("*.pyx"))}
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths.values()]
    return sorted(names, key=lambda name: (name.endswith("fastpath"), name))


def is_compiled(module: ModuleType) -> bool:
    """Whether it came from an extension module."""
    return not isinstance(module.__loader__, SourceFileLoader)


@cache
def _plain_twins() -> dict[str, ModuleType]:
    kept = {name: importlib.import_module(name) for name in doubled()}
    made: dict[str, ModuleType] = {}
    try:
        for name in kept:
            source = ROOT.joinpath(*name.split(".")).with_suffix(".py")
            spec = spec_from_loader(name, SourceFileLoader(name, str(source)))
            assert spec is not None
            assert spec.loader is not None
            sys.modules[name] = made[name] = module_from_spec(spec)
            spec.loader.exec_module(made[name])
    finally:
        sys.modules.update(kept)
    return made


def twins(name: str) -> list[ModuleType]:
    """The module in use, and its plain twin where that is another."""
    module = importlib.import_module(name)
    return [module, _plain_twins()[name]] if is_compiled(module) else [module]
