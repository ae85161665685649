"""The environment variables that striate reads: ``striate --help`` and the README tell of them from here."""

from __future__ import annotations

from typing import Final

#: Each with what it does; ``tests/test_variables.py`` holds this to the sources.
VARIABLES: Final = {
    "STRIATE_CACHE_DIR": "Where machine code and measured choices are kept [default: striate in the user's cache].",
    "STRIATE_TUNE": "0: don't measure which kernels are fastest, each backend's own rule chooses. 1: all at once.",
    "STRIATE_DETERMINISTIC": "1: the same, so that no clock decides in which order sums are made.",
    "STRIATE_ISA": "The instruction set of generated kernels: avx512, avx2, x86-64 or neon [default: the best].",
    "STRIATE_LOG": "choices: print each choice of a kernel when it is made, with the times of the others.",
    "STRIATE_KEEP_MEMORY": "0: give freed memory back to the system at once.",
    "OMP_WAIT_POLICY": "How idle threads wait; if set, striate doesn't adapt this to other programs.",
    "GOMP_SPINCOUNT": "The same.",
    "XDG_CACHE_HOME": "The user's cache, except on Windows and macOS [default: ~/.cache].",
    "LOCALAPPDATA": "The same on Windows.",
    "RANK": "Which of several training processes this is; torchrun sets it.",
    "WORLD_SIZE": "How many there are.",
    "LOCAL_RANK": "Which of those on this machine, and so which GPU.",
    "CUBLAS_WORKSPACE_CONFIG": "Of NVIDIA's cuBLAS; training sets it to :4096:8, for the same results every time.",
}
