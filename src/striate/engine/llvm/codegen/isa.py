"""Instruction sets: the sizes from which kernels derive their tiles, and the target that LLVM compiles for.

A kernel is written once, for vectors of ``lanes`` floats and ``registers`` vector registers.
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
        name: its name in ``STRIATE_ISA``.
        lanes: float32 values in a vector register.
        registers: vector registers.
        fma: whether it has a fused multiply-add, which rounds once.
        masks: whether masked loads and stores cost nothing extra.
        triple: LLVM's name of the architecture.
        cpu, features: LLVM's names of the least capable processor that has this instruction set.
        needs: features that a host must have.
        proven: whether its kernels have been tested against the reference on such a machine. If not, it is only used
            when ``STRIATE_ISA`` names it.
        shorter: the same instruction set with vectors of half the length, if it has them.
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
        """The number of accumulators that fit beside ``operands`` vectors and one spare register without spilling."""
        return self.registers - 1 - operands

    def fitting(self, row: int) -> Isa:
        """The instruction set with shorter vectors if one of them holds a ``row``: never slower, and on processors that
        split long vectors faster.
        """
        return self.shorter if self.shorter is not None and row <= self.shorter.lanes else self

    def dividing(self, channels: int) -> Isa:
        """The instruction set with shorter vectors if their length divides ``channels`` and the full length doesn't."""
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

#: From the most to the least capable.
ISAS: Final = (AVX512, AVX2, X86_64, NEON)


def best(machine: str, features: Mapping[str, bool], proven: bool = False) -> Isa | None:
    """The most capable instruction set of a machine with these features; None if its architecture isn't supported.

    ``proven``: only consider proven instruction sets.

    >>> best("x86_64", {"avx2": True, "fma": True, "bmi2": True}).name
    'avx2'
    """
    family = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}.get(machine.lower())
    fits = (isa for isa in ISAS if isa.triple == family and isa.proven >= proven)
    # Every 64-bit ARM processor has NEON, but not every system lists it as a feature.
    return next((isa for isa in fits if isa is NEON or all(features.get(need) for need in isa.needs)), None)


@cache
def host() -> Isa | None:
    """The instruction set to generate for: the machine's best proven one, or the one that ``STRIATE_ISA`` names.

    Raises:
        BackendError: ``STRIATE_ISA`` isn't the name of an instruction set, or the machine doesn't have it.
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
    """The instruction set to generate for, for callers that know that there is one."""
    isa = host()
    assert isa is not None
    return isa


@cache
def second_level_cache() -> int:
    """Bytes of a core's second-level cache as Linux reports them, clamped to 256 KiB to 2 MiB; otherwise 512 KiB."""
    try:
        told = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
        return min(max(int(told.removesuffix("K")) << 10, 1 << 18), 1 << 21)
    except (OSError, ValueError):
        return 1 << 19
