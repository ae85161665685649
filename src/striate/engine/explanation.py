"""Who computes a problem, as people read it: the choice that backends.py makes, every backend's time or refusal."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from striate.engine import tuning
from striate.engine.backends import Pass, best, contenders, fixed, passes, table
from striate.geometry import ConvShape, Problem, parse


@dataclass(frozen=True)
class Explanation:
    """Who computes a problem: for each pass and backend None (accepts) or the reason for refusing.

    ``chosen`` has None where nobody would: all refuse, or the one does that :func:`use` has fixed. ``seconds`` has what
    was measured on this machine, where something was; if not, the first call measures.
    """

    problem: Problem
    dtype: torch.dtype
    device: str
    chosen: dict[Pass, str | None]
    refusals: dict[Pass, dict[str, str | None]]
    seconds: dict[Pass, dict[str, float]]

    def __str__(self) -> str:
        kind = f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        if isinstance(self.problem, ConvShape):
            kind += f", {self.problem.macs:,} MACs a pass ({self.problem.in_bounds_macs:,} in bounds)"
            kind += ", as four real problems" * self.dtype.is_complex
        lines, known = [str(self.problem), f"  {kind}"], table()
        for open_, asked in self.refusals.items():
            lines.append(f"  {open_.name.lower().replace('_', ' ')}: {self.chosen[open_] or 'nobody'}")
            for name, refusal in asked.items():
                taken = self.seconds[open_].get(name)
                told = "accepts" if taken is None else f"{taken * 1e6:,.1f} us"
                told += "" if name not in known or known[name].local else ", for accelerated models"
                lines.append(f"    {name}: {refusal or told}")
        return "\n".join(lines)


def explain(
    problem: Problem | str,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    channels_last: bool = False,
    local: bool = True,
) -> Explanation:
    """Who computes ``problem`` (or the line that one prints as) and why the others don't.

    Eagerly, that is: what a compiler or an exporter traces is made of PyTorch's own operators. ``local=False`` is how
    accelerated models ask: outputs may move by a rounding error when inputs next to their windows change.

    >>> print(explain("conv2d 8x3x32x32 16x3x3x3 padding=1", torch.float64))
    conv2d 8x3x32x32 16x3x3x3 padding=1
      float64 on cpu, 3,538,944 MACs a pass (3,393,024 in bounds)
      output: aten
        matmul: multiplies a tap at a time, on maps of up to 64 positions and 25 taps
        winograd: computes in float32, not float64
        llvm: computes in float32, not float64
        aten: accepts
        reference: accepts
      input grad: aten
        matmul: multiplies a tap at a time, on maps of up to 64 positions and 25 taps
        winograd: computes in float32, not float64
        llvm: computes in float32, not float64
        aten: accepts
        reference: accepts
      weight grad: aten
        matmul: multiplies a tap at a time, on maps of up to 64 positions and 25 taps
        winograd: computes in float32, not float64
        llvm: computes in float32, not float64
        aten: accepts
        reference: accepts
    """
    known = parse(problem) if isinstance(problem, str) else problem
    conv = isinstance(known, ConvShape)
    # Complex convolutions are computed as real ones.
    asked_dtype = dtype.to_real() if conv and dtype.is_complex else dtype
    kind = torch.device(device).type
    chosen: dict[Pass, str | None] = {}
    refusals: dict[Pass, dict[str, str | None]] = {}
    seconds: dict[Pass, dict[str, float]] = {}
    for open_ in passes(known):
        asked = (known, open_, asked_dtype, kind)
        refusals[open_] = {name: backend.refusal(*asked) for name, backend in table().items()}
        question = tuning.Question(*asked, channels_last, torch.get_num_threads())
        seconds[open_] = tuning.known(question) or {}
        accepting = [name for name, refusal in refusals[open_].items() if refusal is None]
        if (name := fixed()) is not None:
            chosen[open_] = name if name in accepting else None
        elif accepting:
            # What nobody has measured yet goes by the rule here, since nothing is computed.
            times = seconds[open_] if tuning.measuring() else None
            chosen[open_] = best(contenders(*asked, local), times, known, open_, channels_last)
        else:
            chosen[open_] = None
    return Explanation(known, dtype, device, chosen, refusals, seconds)
