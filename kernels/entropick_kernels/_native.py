"""The compiler of native functions: numba, without the GIL, with a disk cache keyed by the sources' digest.

numba keeps the machine code of a function until the function's own file changes. That code contains the
functions that it calls, whatever file they are in, and the instructions that :mod:`.decoder._tile` emits.
Here it is kept until any source file of this package or of the function's own package changes, in whichever
folder numba keeps it: beside the sources, under NUMBA_CACHE_DIR, or in the user's cache folder. It is
self-contained, so that the process that compiles it runs the same instructions as those that load it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba
from llvmlite import binding
from llvmlite.binding import Linkage
from numba import types
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.ccallback import CFunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

Function = TypeVar("Function", bound=Callable[..., Any])
_HERE: Final = Path(__file__).parent
_log: Final = logging.getLogger(__name__)


@functools.cache
def _sources_digest(folder: Path) -> str:
    """Returns a digest of all source files under a folder, their names and contents."""
    digest = hashlib.blake2b(digest_size=16)
    for source in sorted(folder.rglob("*.py")):
        digest.update(f"{source.relative_to(folder)}\0".encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _sources_stamp(function: Callable[..., Any]) -> tuple[str, ...]:
    """Returns digests of the sources that a function's machine code may contain: this package's and its own.

    Its own are those of its top-level package, or its file where it belongs to no package.
    """
    package = sys.modules.get(function.__module__.partition(".")[0])
    folders = [Path(folder) for folder in getattr(package, "__path__", ())]
    stamp = [_sources_digest(folder) for folder in dict.fromkeys((_HERE, *folders))]
    if not folders:
        stamp.append(hashlib.blake2b(Path(function.__code__.co_filename).read_bytes()).hexdigest())
    return tuple(stamp)


class _SourcesCache(FunctionCache):  # type: ignore[misc]
    """numba's cache of one function on disk, whose entries belong to a digest of sources.

    An entry of another digest is not read, and is overwritten by the next compilation.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        """Raises RuntimeError where there is no folder to write to."""
        super().__init__(function)
        self._cache_file = IndexDataCacheFile(
            self.cache_path, self._impl.filename_base, _sources_stamp(function)
        )

    @contextlib.contextmanager
    def _guard_against_spurious_io_errors(self) -> Iterator[None]:
        """Goes on without the cache where it cannot be read or written, as on a full disk."""
        try:
            yield
        except OSError as error:
            _warn_that_nothing_is_kept(f"its folder cannot be used ({error.strerror})")


class _SelfContainedLibrary(JITCodeLibrary):  # type: ignore[misc]
    """The machine code of one function, which runs its own copies of the functions that it calls.

    numba links callees into the caller's code and optimises them there once more, so a copy may sum in
    another order than the callee's own code (``reassoc``). A copy that is not inlined is a weak symbol in
    numba's code: of all definitions of its name the one that the process got first serves every caller. A
    process that compiles gets the callee's own first, a process that loads never gets it, and their last
    bits differ. Internal copies are the caller's alone, in every process.
    """

    def _finalize_final_module(self) -> None:
        """Makes the copies of callees internal, then gives the module to the execution engine.

        What callers of this function link is left as numba makes it, so that they unite equal copies.
        """
        self._shared_module = self._final_module.clone()
        for name in _defined_functions(self._final_module, Linkage.external):
            self._shared_module.get_function(name).linkage = Linkage.linkonce_odr
        for name in _defined_functions(self._final_module, Linkage.linkonce_odr):
            self._final_module.get_function(name).linkage = Linkage.internal
        super()._finalize_final_module()


def _defined_functions(module: Any, linkage: Linkage) -> list[str]:
    """Returns the names of the functions that a module defines with this linkage."""
    return [f.name for f in module.functions if not f.is_declaration and f.linkage == linkage]


class _SelfContainedCompiler(Compiler):  # type: ignore[misc]
    """numba's compiler, which makes libraries that are self-contained."""

    def compile_extra(self, func: Callable[..., Any]) -> Any:
        """Compiles a function and returns numba's compile result."""
        library = _SelfContainedLibrary(self.state.targetctx.codegen(), func.__qualname__)
        library.enable_object_caching()
        self.state.library = library
        return super().compile_extra(func)


def _keep_on_disk(compiled: Any, function: Callable[..., Any]) -> None:
    """Gives a numba function its cache on disk, or warns once that nothing is kept."""
    try:
        compiled._cache = _SourcesCache(function)
    except RuntimeError:
        _warn_that_nothing_is_kept("numba found no folder that it may write to")


def code_folder() -> Path | None:
    """Returns the folder where numba keeps this package's native code, None where it found none."""
    try:
        return Path(FunctionCache(native).cache_path)
    except RuntimeError:
        return None


def code_identity(package: str) -> str:
    """Returns a digest of the things that decide compiled code: the sources, numba and the processor.

    The sources are this package's and those of ``package``, which builds programs on it.
    """
    found = find_spec(package)
    folders = [] if found is None else [Path(f) for f in found.submodule_search_locations or ()]
    sources = [_sources_digest(folder) for folder in (_HERE, *folders)]
    features = binding.get_host_cpu_features().flatten()
    parts = (*sources, numba.__version__, binding.get_host_cpu_name(), features)
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


@functools.cache
def _warn_that_nothing_is_kept(reason: str) -> None:
    """Says once a process that its native code is not kept, and how to change that."""
    _log.warning(
        "Native code cannot be kept on disk, so every start compiles it anew (up to a minute): %s. Set "
        "NUMBA_CACHE_DIR to a folder with room.",
        reason,
    )


def native(*flags: str) -> Callable[[Function], Function]:
    """Returns a decorator that compiles a function at its first call for the types it gets.

    ``flags`` are LLVM fast-math flags. ``reassoc`` lets a sum be vectorised (the order stays a function of
    the length alone); flags that assume away NaN or infinity are never used: a bad row must show.
    """

    def compile_lazily(function: Function) -> Function:
        compiled = numba.njit(
            nogil=True, fastmath=set(flags), error_model="numpy", pipeline_class=_SelfContainedCompiler
        )(function)
        _keep_on_disk(compiled, function)
        return cast(Function, compiled)

    return compile_lazily


def native_worker(function: Callable[[Any], None]) -> Any:
    """Compiles a function ``void(int64*)`` now, not at its first call, and returns it as a C callback.

    :func:`entropick_kernels._threads.run` starts it on torch's threads.
    """
    worker = CFunc(function, ((types.CPointer(types.int64),), types.void), {}, {}, _SelfContainedCompiler)
    _keep_on_disk(worker, function)
    worker.compile()
    return worker
