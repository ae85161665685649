"""Explains a choice as text: what choice.py chooses for a problem, and the times and refusals of the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from striate.engine import choice, tuning
from striate.engine.backends import fixed
from striate.engine.choice import Asked
from striate.engine.passes import Pass, passes
from striate.geometry import AnyProblem, ConvShape, parse_any


@dataclass(frozen=True)
class Explanation:
    """The implementations chosen for the passes of a problem, and the reasons.

    ``refusals`` has, for each pass and implementation, None (accepts) or the reason for refusing. ``chosen`` is None
    for a pass that all refuse, or that the backend fixed by :func:`use` refuses. ``why`` says how the choice was made.
    ``seconds`` has the times measured on this machine; if there are none, the first call measures.
    """

    problem: AnyProblem
    dtype: torch.dtype
    device: str
    chosen: dict[Pass, str | None]
    why: dict[Pass, str]
    refusals: dict[Pass, dict[str, str | None]]
    seconds: dict[Pass, dict[str, float]]

    def __str__(self) -> str:
        kind = f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        if isinstance(self.problem, ConvShape):
            kind += f", {self.problem.macs:,} MACs a pass ({self.problem.in_bounds_macs:,} in bounds)"
            kind += ", as four real problems" * self.dtype.is_complex
        lines = [str(self.problem), f"  {kind}"]
        for open_, asked in self.refusals.items():
            name = open_.name.lower().replace("_", " ")
            lines.append(f"  {name}: {self.chosen[open_] or 'nothing'}, {self.why[open_]}")
            for name, refusal in asked.items():
                taken = self.seconds[open_].get(name)
                told = [] if taken is None else [f"{taken * 1e6:,.1f} us"]
                told += [refusal] if refusal is not None else ["accepts"] if taken is None else []
                lines.append(f"    {name}: {', '.join(told)}")
        return "\n".join(lines)


def explain(
    problem: AnyProblem | str,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    channels_last: bool = False,
    local: bool = True,
) -> Explanation:
    """Explains which implementation computes ``problem`` (or the problem that a line describes), and why.

    This holds for eager calls: code that a compiler or an exporter traces consists of PyTorch's own operators.
    ``local=False`` gives the choice for accelerated models, where an output may change by a rounding error when inputs
    next to its window change. A convolution then has one more pass, ``PACKED``, the step of an inference plan.

    >>> print(explain("conv2d 8x3x32x32 16x3x3x3 padding=1", torch.float64))
    conv2d 8x3x32x32 16x3x3x3 padding=1
      float64 on cpu, 3,538,944 MACs a pass (3,393,024 in bounds)
      output: aten, no other accepts
        matmul: multiplies a tap at a time, on maps of up to 64 positions and 25 taps
        winograd: computes in float32, not float64
        llvm: computes in float32, not float64
        aten: accepts
        reference: computes what all others refuse
      input grad: aten, no other accepts
        matmul: multiplies a tap at a time, on maps of up to 64 positions and 25 taps
        winograd: computes in float32, not float64
        llvm: computes in float32, not float64
        aten: accepts
        reference: computes what all others refuse
      weight grad: aten, no other accepts
        matmul: multiplies a tap at a time, on maps of up to 64 positions and 25 taps
        winograd: computes in float32, not float64
        llvm: computes in float32, not float64
        aten: accepts
        reference: computes what all others refuse

    Fused operations are explained in the same way:

    >>> explain("batch_norm 8x64x56x56 relu training", torch.float64).refusals[Pass.OUTPUT]
    {'llvm': 'computes in float32, not float64', 'aten': None}
    """
    known = parse_any(problem) if isinstance(problem, str) else problem
    # Complex convolutions are computed as real ones.
    asked_dtype = dtype.to_real() if isinstance(known, ConvShape) and dtype.is_complex else dtype
    kind = torch.device(device).type
    chosen: dict[Pass, str | None] = {}
    why: dict[Pass, str] = {}
    refusals: dict[Pass, dict[str, str | None]] = {}
    seconds: dict[Pass, dict[str, float]] = {}
    packed = (Pass.PACKED,) if isinstance(known, ConvShape) and not local else ()
    for open_ in (*passes(known), *packed):
        asked = Asked(known, open_, asked_dtype, kind, channels_last, local)
        refusals[open_] = {each.name: each.refusal for each in choice.implementations(asked)}
        seconds[open_] = tuning.known(asked.timing_key()) or {}
        accepting = [name for name, refusal in refusals[open_].items() if refusal is None]
        if (name := fixed()) is not None and name in refusals[open_]:
            chosen[open_], why[open_] = name if name in accepting else None, "fixed by use"
        elif accepting:
            # Nothing is computed here, so the rule decides if there are no measured times.
            found = choice.decide(asked, None, seconds[open_] if tuning.measuring() else None)
            chosen[open_], why[open_] = found.name, found.why
        else:
            chosen[open_], why[open_] = None, "all refuse"
    return Explanation(known, dtype, device, chosen, why, refusals, seconds)
