"""The implementations of batch normalisation fused with what follows it: generated kernels or PyTorch's operators."""

from __future__ import annotations

import torch

from striate.engine import choice
from striate.engine.backends import fixed
from striate.engine.choice import Asked, Implementation
from striate.engine.llvm.codegen.isa import host
from striate.engine.llvm.normalization import dispatch
from striate.engine.llvm.normalization.formulas import NormVariant
from striate.geometry import NormShape


@choice.family(NormShape)
def _family(asked: Asked) -> list[Implementation]:
    problem = asked.problem
    assert isinstance(problem, NormShape)
    refusal, recommended = None, False
    if asked.device != "cpu":
        refusal = f"generates code for CPUs, not for {asked.device}"
    elif asked.dtype != torch.float32:
        refusal = f"computes in float32, not {str(asked.dtype).removeprefix('torch.')}"
    elif host() is None:
        refusal = "generates code for x86-64; on 64-bit ARM if STRIATE_ISA=neon says so"
    else:
        like = torch.empty(problem.input_shape, device="meta")
        if asked.channels_last:
            like = like.movedim(1, -1).contiguous().movedim(-1, 1)
        plan = dispatch.plan(NormVariant(problem.activation, problem.residual, problem.training), like)
        if plan is None:
            refusal = "has fewer channels than threads"
        else:
            recommended = like.numel() >= plan.least
    if refusal is None and fixed() not in (None, "llvm"):
        refusal = f"the backend is fixed to {fixed()}"
    # Without kernels PyTorch's operators compute it, whatever is fixed.
    other = "the backend is fixed to llvm" if refusal is None and fixed() == "llvm" else None
    return [Implementation("llvm", refusal, recommended), Implementation("aten", other)]
