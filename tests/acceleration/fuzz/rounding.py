"""Whether what was seen in one world is, up to rounding, what was seen in another.

How large rounding is isn't guessed. The same steps are taken in float64; what float32 is away from that, in a tensor,
is what rounding does to that tensor, and the accelerated one may be away as far, times :data:`FACTOR`, since it sums in
another order, and some units in the last place of the tensor's largest numbers.

Where a function jumps (a ReLU's gradient at zero, the maximum of two equal numbers, a condition on a number), one run
in float32 doesn't show what rounding can do. So what exceeds the bound is looked at again: the plain module is run some
more times with the results of all its operators moved by a few units in the last place
(:class:`fuzz.worlds.Jittered`), and what these are away from float64 counts as well. A stale weight or a wrong branch
differs by much more than that.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch._subclasses.fake_tensor import FakeTensor

from .worlds import Record, Seen

#: How many times as far from float64 as plain float32 may an accelerated tensor be?
FACTOR = 16
#: And how many units in the last place of the largest numbers in the tensor besides?
UNITS = 64


#: In the error with which PyTorch's batch_norm refuses a second derivative if it has a bias and no weight.
_UNDIFFERENTIABLE: Final = "Expected a proper Tensor but got None"


def difference(found: Record, plain: Record, double: Record | None, others: list[Record] = []) -> str:  # noqa: B006
    """The first thing that differs by more than rounding, in words; empty if nothing does.

    ``double`` was seen in float64, ``others`` in jittered worlds; either may lack what the plain world has.
    """
    if [name for name, _ in found] != [name for name, _ in plain]:
        if _UNDIFFERENTIABLE in str(dict(plain).get("raised")) and "raised" not in dict(found):
            return ""
        return _unlike(found, plain)
    truths = dict(double or [])
    jitters = [dict(each) for each in others]
    for (name, mine), (_, theirs) in zip(found, plain, strict=True):
        told = _value(mine, theirs, truths.get(name), [each.get(name) for each in jitters])
        if told:
            return f"{name}: {told}"
    return ""


def _unlike(found: Record, plain: Record) -> str:
    """Other things were seen at all: an exception, most often."""
    mine, theirs = dict(found), dict(plain)
    if mine.get("raised") != theirs.get("raised"):
        return f"raised {mine.get('raised')}, and plainly {theirs.get('raised')}"
    lacking, more = [n for n in theirs if n not in mine][:3], [n for n in mine if n not in theirs][:3]
    for name in mine:
        if name in theirs and name.endswith(" is") and mine[name] != theirs[name]:
            return f"{name} {mine[name]!r}, and plainly {theirs[name]!r}"
    return f"has {more}, and plainly {lacking}"


def _value(mine: Any, theirs: Any, truth: Any, jitters: list[Any]) -> str:
    if isinstance(mine, Seen) != isinstance(theirs, Seen):
        return f"{_told(mine)}, and plainly {_told(theirs)}"
    if isinstance(mine, Seen):
        return _tensor(mine, theirs, truth, jitters)
    if isinstance(theirs, float) and isinstance(mine, float):
        values = [each for each in (truth, *jitters) if isinstance(each, float)]
        made = [torch.tensor([each], dtype=torch.float64) for each in (mine, theirs, *values)]
        if not values or len(values) == len(jitters):
            made.insert(2, made[1])  # no float64: the plain world stands for it
        return _numbers(made[0], made[1], made[2], made[3:], 2.0**-23)
    if mine == theirs and type(mine) is type(theirs):
        return ""
    if any(each is not None and each != theirs and each == mine for each in (truth, *jitters)):
        return ""  # rounding decides
    return f"{_told(mine)}, and plainly {_told(theirs)}"


def _tensor(mine: Seen, theirs: Seen, truth: Any, jitters: list[Any]) -> str:
    for key, value in theirs.about.items():
        if mine.about[key] != value:
            return f"{key} {mine.about[key]}, and plainly {value}"
    a, p = mine.value, theirs.value
    # Export runs hooks on tensors without numbers, and a hook may keep what it gets.
    if isinstance(a, FakeTensor) or isinstance(p, FakeTensor):
        return "" if type(a) is type(p) else f"a {type(a).__name__}, and plainly a {type(p).__name__}"
    others = [each.value for each in jitters if isinstance(each, Seen) and each.value.shape == p.shape]
    d = truth.value if isinstance(truth, Seen) and truth.value.shape == p.shape else p
    if not p.is_floating_point():
        if torch.equal(a, p) or any(torch.equal(a, each) for each in (d, *others)):
            return ""
        return f"other numbers ({int((a != p).sum())} of {p.numel()})"
    eps = torch.finfo(p.dtype).eps
    return _numbers(a.double(), p.double(), d.double(), [each.double() for each in others], eps)


def _numbers(a: torch.Tensor, p: torch.Tensor, d: torch.Tensor, others: list[torch.Tensor], eps: float) -> str:
    if not a.numel() or torch.equal(a, p):
        return ""
    finite = a.isfinite() & p.isfinite() & d.isfinite()
    for each in others:
        finite &= each.isfinite()
    odd = ~(a.isfinite() & p.isfinite())
    if odd.any():
        x, y = a[odd], p[odd]
        same = (x == y) | (x.isnan() & y.isnan())
        # Overflow may come sooner or later; whether a number is NaN or infinite may hang on that.
        far = bool(((p[finite].abs() > 1e30) if finite.any() else torch.tensor([False])).any())
        loose = any(not torch.equal(each.isfinite(), p.isfinite()) for each in (d, *others))
        if not same.all() and not far and not loose:
            return f"{int((~same).sum())} numbers of {a.numel()} that aren't finite differ"
    if not finite.any():
        return ""
    a, p, d = a[finite], p[finite], d[finite]
    away = (a - d).abs().max().item()
    noise = (p - d).abs().max().item()
    for each in others:
        noise = max(noise, (each[finite] - d).abs().max().item())
    scale = max(d.abs().max().item(), p.abs().max().item())
    bound = FACTOR * noise + UNITS * eps * scale + 1e-30
    if away <= bound:
        return ""
    return f"{away:.2g} away from float64 at scale {scale:.2g}; rounding is {noise:.2g}, and {bound:.2g} is allowed"


def _told(value: Any) -> str:
    if isinstance(value, Seen):
        return f"a tensor {tuple(value.value.shape)}"
    text = str(value)
    return text if len(text) < 200 else f"{text[:200]}..."
