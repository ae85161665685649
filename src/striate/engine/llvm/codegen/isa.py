"""Instruction sets: what a kernel's tiles are sized by, and what LLVM is told to compile for.

A kernel is written once, for vectors of ``lanes`` floats and a register file of ``registers`` of them.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

import llvmlite.binding as llvm

from striate.errors import BackendError


@dataclass(frozen=True)
class Isa:
    """An instruction set.

    Args:
        name: what ``STRIATE_ISA`` calls it.
        lanes: float32 values in a vector register.
        registers: vector registers.
        fma: multiplies and adds in one instruction, rounding once.
        masks: loads and stores can leave out lanes at no cost.
        triple: LLVM's name of the platform; empty for the machine's own.
        cpu, features: LLVM's names of the least processor that has it.
        needs: features a host has to have.
        proven: its kernels have been run against the reference on such a machine. Others wait for ``STRIATE_ISA``.
        shorter: the same instructions on vectors of half the length, if it has them.
    """

    name: str
    lanes: int
    registers: int
    fma: bool
    masks: bool
    triple: str
    cpu: str
    features: str
    needs: tuple[str, ...]
    proven: bool = False
    shorter: Isa | None = None

    def tile(self, operands: int) -> int:
        """Accumulators that fit beside ``operands`` vectors and one spare register without spilling."""
        return self.registers - 1 - operands

    def fitting(self, row: int) -> Isa:
        """On shorter vectors where one of them holds a ``row``: processors that split long ones gain, none loses."""
        return self.shorter if self.shorter is not None and row <= self.shorter.lanes else self

    def dividing(self, channels: int) -> Isa:
        """On shorter vectors where so many channels are a whole number of those, and not of long ones."""
        divide = self.shorter is not None and channels % self.lanes and not channels % self.shorter.lanes
        return self.shorter if self.shorter is not None and divide else self


# The 32 registers of AVX-512 and NEON keep a tile of up to 30 vectors. An x86-64 level is a published set of features:
# System V ABI, AMD64 supplement, section 3.1.1, "Processor architecture".
_AVX512: Final = Isa(
    "avx512",
    16,
    32,
    True,
    True,
    "x86_64",
    "x86-64-v4",
    "",
    ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "fma", "bmi2"),
    True,
)
AVX512: Final = replace(_AVX512, shorter=replace(_AVX512, name="avx512vl", lanes=8))
AVX2: Final = Isa("avx2", 8, 16, True, True, "x86_64", "x86-64-v3", "", ("avx2", "fma", "bmi2"), True)
X86_64: Final = Isa("x86-64", 4, 16, False, False, "x86_64", "x86-64", "", (), True)
NEON: Final = Isa("neon", 4, 32, True, False, "aarch64", "generic", "+neon", ("neon",))

#: From the most to the least able.
ISAS: Final = (AVX512, AVX2, X86_64, NEON)


def best(machine: str, features: Mapping[str, bool], proven: bool = False) -> Isa | None:
    """The most able instruction set of a machine with these features, or None for a family we don't generate for.

    ``proven``: of those that are.

    >>> best("x86_64", {"avx2": True, "fma": True, "bmi2": True}).name
    'avx2'
    """
    family = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}.get(machine.lower())
    fits = (isa for isa in ISAS if isa.triple == family and isa.proven >= proven)
    # Every 64-bit ARM processor has NEON; not every system lists it.
    return next((isa for isa in fits if isa is NEON or all(features.get(need) for need in isa.needs)), None)


@cache
def host() -> Isa | None:
    """The instruction set to generate for: the machine's best proven one, or what ``STRIATE_ISA`` names.

    Raises:
        BackendError: ``STRIATE_ISA`` names none, or one that the machine hasn't.
    """
    machine, features = platform.machine(), llvm.get_host_cpu_features()
    found = best(machine, features)
    wanted = os.environ.get("STRIATE_ISA", "")
    if not wanted:
        return best(machine, features, proven=True)
    named = next((isa for isa in ISAS if isa.name == wanted), None)
    if named is None:
        raise BackendError("STRIATE_ISA", f"got {wanted!r}", "needed one of " + ", ".join(isa.name for isa in ISAS))
    if found is None or named.triple != found.triple or not all(features.get(need) for need in named.needs):
        raise BackendError("STRIATE_ISA", f"got {wanted!r}", f"needed one that this {machine} processor has")
    return named


def the_isa() -> Isa:
    """The instruction set to generate for, where it is known that there is one."""
    isa = host()
    assert isa is not None
    return isa


@cache
def second_level_cache() -> int:
    """Bytes of a core's second-level cache as Linux tells them, within 256 KiB and 2 MiB; elsewhere 512 KiB."""
    try:
        told = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
        return min(max(int(told.removesuffix("K")) << 10, 1 << 18), 1 << 21)
    except (OSError, ValueError):
        return 1 << 19
