"""Compiles the hot modules, where there is a compiler. All that can be said without code stands in pyproject.toml.

A module is compiled when a `.pxd` file stands beside it; from its `.pyx` twin, where it has one, else from the `.py`.

    GOWS_PURE=1              compile nothing
    GOWS_REQUIRE_COMPILED=1  fail when something cannot be compiled, instead of installing plain Python
"""

import os
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

COMPILED = [
    "gows.bytebuffer",
    "gows.protocol.assembly",
    "gows.protocol.config",
    "gows.protocol.connection",
    "gows.protocol.fastpath",
    "gows.protocol.frames",
    "gows.protocol.masking",
    "gows.protocol.utf8",
    "gows.reactor.interfaces",
    "gows.reactor.kernel",
    "gows.reactor.lock",
    "gows.reactor.stream",
    "gows.reactor.tls",
    "gows.reactor.turn",
    "gows.session.context",
    "gows.session.delivering",
    "gows.session.heartbeat",
    "gows.session.overflow",
    "gows.session.policy",
    "gows.session.sending",
    "gows.session.session",
    "gows.session.traffic",
    "gows.session.websocket",
    "gows.session.writer",
]

VECTORS = ["gows.protocol.masking"]
"""Loops that a compiler makes vector instructions of when it is told to: gcc before 12 does not at -O2."""

DIRECTIVES = {
    "language_level": "3",
    "annotation_typing": False,  # types stand in the .pxd files; `float` as an annotation is a promise of Python's only
    "binding": False,  # methods that CPython calls without a frame, nor a wrapper
    "embedsignature": True,  # for help(), editors and mocks: what such a method has no other place for
    "embedsignature.format": "clinic",
}


def asked(name: str) -> bool:
    """Whether an environment variable is set, and not to 0."""
    return os.environ.get(name, "0") not in ("", "0")


def tell(line: str) -> None:
    """The one line about what is installed."""
    print(f"gows: {line}", file=sys.stderr)


def source(module: str) -> str:
    """What `module` is compiled from."""
    path = Path(*module.split("."))
    twin = path.with_suffix(".pyx")
    return (twin if twin.exists() else path.with_suffix(".py")).as_posix()


def extensions() -> list[Extension]:
    """What to compile here: all or nothing, for compiled and plain modules do not mix."""
    required = asked("GOWS_REQUIRE_COMPILED")
    if asked("GOWS_PURE"):
        if required:
            sys.exit("gows: GOWS_PURE and GOWS_REQUIRE_COMPILED ask for opposite things")
        return []
    why = "this is not CPython" if sys.implementation.name != "cpython" else compiler_fault()
    if why:
        if required:
            sys.exit(f"gows: cannot compile, and GOWS_REQUIRE_COMPILED is set: {why}")
        tell(f"plain Python, no compiled modules: {why}")
        return []
    flags = [] if os.name == "nt" else ["-g0", "-Wno-maybe-uninitialized"]
    return [
        Extension(name, [source(name)], extra_compile_args=[*flags, "-O3"] if name in VECTORS and flags else flags)
        for name in COMPILED
    ]


def compiler_fault() -> str:
    """Why nothing can be compiled on this machine; empty when it can."""
    from setuptools._distutils.ccompiler import new_compiler
    from setuptools._distutils.sysconfig import customize_compiler, get_python_inc

    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder, "probe.c")
        probe.write_text("#include <Python.h>\n")
        compiler = new_compiler()
        try:
            customize_compiler(compiler)
            with open(os.devnull, "w") as nowhere, quiet(nowhere.fileno()):
                compiler.compile([str(probe)], output_dir=folder, include_dirs=[get_python_inc()])
        except Exception as error:
            return f"no working C compiler ({error})"
    return ""


class quiet:
    """Standard output and error of this process and its children go elsewhere."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.kept = os.dup(1), os.dup(2)
        os.dup2(self.fd, 1)
        os.dup2(self.fd, 2)

    def __exit__(self, *_: object) -> None:
        for fd, kept in enumerate(self.kept, 1):
            os.dup2(kept, fd)
            os.close(kept)


class BuildExt(build_ext):
    """Translates and compiles on all processors. What was not required and fails is plain Python as a whole."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extensions(self) -> None:
        try:
            self.translate()
            super().build_extensions()
        except Exception as error:
            if asked("GOWS_REQUIRE_COMPILED"):
                raise
            tell(f"plain Python, no compiled modules: {error}")
            self.forget()

    def translate(self) -> None:
        """From Python to C, under build/."""
        from Cython.Build import cythonize

        copies = [Extension(extension.name, extension.sources) for extension in self.extensions]
        folder = Path("build", "c").as_posix()
        made = cythonize(copies, build_dir=folder, compiler_directives=DIRECTIVES, nthreads=self.parallel, quiet=True)
        for extension, translated in zip(self.extensions, made):  # noqa: B905
            extension.sources = translated.sources
            extension.depends = translated.depends

    def forget(self) -> None:
        """Leave nothing that was built, now or before, for some modules would be newer than others."""
        build_py = self.get_finalized_command("build_py")
        for extension in self.extensions:
            Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            if self.editable_mode or build_py.editable_mode:
                folder = build_py.get_package_dir(extension.name.rpartition(".")[0])
                Path(folder, Path(self.get_ext_filename(extension.name)).name).unlink(missing_ok=True)
        self.extensions = []


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExt})
