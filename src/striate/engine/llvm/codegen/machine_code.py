"""Compiles IR to callable functions, and caches machine code on disk.

A cache entry is a file named by the SHA-256 of everything that its code depends on. It starts with the SHA-256 of the
code, so a damaged entry is detected before LLVM sees it, and compiled again. Entries are written atomically. If the
folder can't be read or written, kernels are compiled again.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from functools import cache, partial
from typing import Any, Final

import llvmlite.binding as llvm

from striate.engine import cache as kept_on_disk
from striate.engine.compilation import NotCompiledError, waits
from striate.engine.llvm.codegen.compiler import Job, urgent
from striate.engine.llvm.codegen.isa import Isa

#: Has to be changed when the compilation of unchanged IR changes.
_RECIPE: Final = "1"
_lock = threading.Lock()
_libraries: list[Any] = []
#: The modules that are being compiled, or whose code hasn't been asked for yet, by their key.
_jobs: dict[str, Job] = {}


@cache
def _prepare() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def target(isa: Isa) -> Any:
    """LLVM's target machine for an instruction set; for another architecture than the host's, on Linux."""
    _prepare()
    own = llvm.get_process_triple()
    family = own.split("-")[0].replace("arm64", "aarch64")
    triple = own if family == isa.triple else f"{isa.triple}-unknown-linux-gnu"
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=isa.cpu, features=isa.features, opt=3, reloc="pic", codemodel="small"
    )


def _optimised(ir: str, isa: Isa) -> tuple[Any, Any]:
    """LLVM's target machine, and the module after LLVM's optimisation passes."""
    machine = target(isa)
    module = llvm.parse_assembly(ir)
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    module.verify()
    # Kernels are generated unrolled and vectorised; if LLVM did it again, they would be longer, but not faster.
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_unrolling = options.slp_vectorization = options.loop_vectorization = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return machine, module


def to_object(ir: str, isa: Isa) -> bytes:
    """Machine code of a module, as an object file's bytes."""
    machine, module = _optimised(ir, isa)
    code: bytes = machine.emit_object(module)
    return code


def to_assembly(ir: str, isa: Isa) -> str:
    """The machine code of :func:`to_object` as text, for reading."""
    machine, module = _optimised(ir, isa)
    text: str = machine.emit_assembly(module)
    return text


def key(ir: str, isa: Isa) -> str:
    """The cache key of a module's machine code: a digest of everything that determines it."""
    version = ".".join(map(str, llvm.llvm_version_info))
    return hashlib.sha256("\0".join([_RECIPE, version, isa.name, isa.cpu, isa.features, ir]).encode()).hexdigest()


def code(ir: str, isa: Isa) -> bytes:
    """The machine code of a module, from the cache, or compiled and written to the cache.

    Raises:
        NotCompiledError: this thread doesn't wait, and the module isn't in the cache; it is compiled in the background.
    """
    wanted = job(ir, isa)
    if not waits() and not wanted.request():
        raise NotCompiledError("a kernel isn't compiled yet")
    with urgent():
        made = wanted.code()
    with _lock:
        _jobs.pop(key(ir, isa), None)
    return made


def job(ir: str, isa: Isa) -> Job:
    """The job that compiles a module and writes it to the cache; it is done if the module is in the cache."""
    name = key(ir, isa)
    with _lock:
        found = _jobs.get(name)
    if found is None:
        entry = f"{name}.o"
        kept = kept_on_disk.read(entry) or b""
        digest, body = kept[:32], kept[32:]
        # Detect damaged entries before LLVM sees them.
        whole = body and hashlib.sha256(body).digest() == digest
        found = Job(partial(_compiled, ir, isa, entry), body if whole else None)
        with _lock:
            found = found if whole else _jobs.setdefault(name, found)
    return found


def _compiled(ir: str, isa: Isa, entry: str) -> bytes:
    made = to_object(ir, isa)
    kept_on_disk.write(entry, hashlib.sha256(made).digest() + made)
    return made


@cache
def _linker() -> Any:
    _prepare()
    # One linker holds many libraries, one for each kernel.
    machine = llvm.Target.from_default_triple().create_target_machine(reloc="pic", codemodel="small")
    # The older linker maps code and constants separately, and aborts if they are more than 2 GiB apart, which happens
    # in processes that map much memory.
    return llvm.create_lljit_compiler(machine, use_jit_link=sys.platform != "win32")


def link(ir: str, isa: Isa, symbols: tuple[str, ...]) -> tuple[int, ...]:
    """The addresses of a module's functions, which are valid until the process ends."""
    body = code(ir, isa)
    with urgent(), _lock:
        builder = llvm.JITLibraryBuilder().add_object_img(body).add_current_process()
        for symbol in symbols:
            builder.export_symbol(symbol)
        library = builder.link(_linker(), f"striate{len(_libraries)}")
        _libraries.append(library)
    return tuple(library[symbol] for symbol in symbols)
