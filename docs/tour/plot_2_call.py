"""
One call, from Python to a kernel
=================================

What happens between ``ops.conv2d(x, w)`` and the first multiplication? This page records the functions of striate that
run, and explains the important ones. If a function that it explains stops running, the page fails.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import striate
from striate import engine, ops

sys.path.append(str(Path(striate.__file__).parents[2] / "docs" / "handbook"))
import tour

torch.manual_seed(0)
x, w = torch.randn(1, 16, 57, 43), torch.randn(24, 16, 4, 3)

# %%
# **The first call** of a problem has to find out everything. ``engine.use("llvm")`` fixes the backend here, so that the
# path is the same on every machine. Without it the fastest backend is taken, as measured.

with engine.use("llvm"), torch.no_grad():
    first = tour.calls(lambda: ops.conv2d(x, w, padding="same"))
    later = tour.calls(lambda: ops.conv2d(x, w, padding="same"))
print(f"functions of striate that run in the first call: {len(first):,}, in the second: {len(later)}")
assert len(later) < 40 < len(first)

first_remarks = {
    "ops/convolution.py:conv2d": "the public function",
    "ops/_dispatch.py:Dispatch.find": "looks in the dispatch cache: new",
    "geometry/shapes.py:ConvShape.of": "the problem: sizes, windows, groups",
    "engine/backends.py:gain": "worth leaving PyTorch for?",
    "engine/backends.py:ready": "asks for something to call",
    "engine/backends.py:choose": "which backend?",
    "engine/llvm/backend.py:LlvmBackend.refusal": "can it compute this? None: yes",
    "engine/llvm/convolution/dispatch.py:ready": "which sum is this pass?",
    "engine/llvm/convolution/sums.py:readable": "how do the planes lie in memory?",
    "engine/llvm/convolution/sums.py:nchw_sum": "which kernel, blocks, threads?",
    "engine/llvm/convolution/nchw.py:PlaneTile.choose": "which totals stay in registers?",
    "engine/llvm/convolution/sums.py:PreparedSum.__call__": "computes",
}
later_remarks = {
    "ops/convolution.py:conv2d": "the public function",
    "ops/_dispatch.py:Dispatch.find": "looks in the dispatch cache: known",
    "engine/llvm/convolution/sums.py:PreparedSum.__call__": "memory for the result",
    "engine/llvm/memory/weights.py:Packing.fill": "weights in the order of the loops",
    "engine/llvm/codegen/launch.py:Start.__call__": "fills in addresses, starts threads",
}
tour.draw_path({"the first call": (first, first_remarks), "every later call": (later, later_remarks)})
plt.show()

# %%
# Read it from the top:
#
# 1. ``ops`` looks up the call in its *dispatch cache*. The key is everything that the choice depends on: shapes,
#    strides, devices, whether gradients are needed, the number of threads, and what ``engine.use`` says.
# 2. If the call is new, ``geometry`` makes its *problem*. This object describes the call completely, and every later
#    decision depends on nothing else. It prints as a line that you can give to other commands.
# 3. ``engine`` chooses the *backend*. A backend says why it can't compute a problem, or accepts it.
# 4. The backend chooses a *kernel* and compiles it, or finds it in the cache of machine code.
# 5. What is left for later calls: memory for the result, the weights in the order of the loops, and the start.

shape = striate.ConvShape.of(x.shape, w.shape, padding="same")
print(shape)
print(engine.explain(str(shape)))

# %%
# **Why did this convolution run where it ran?** ``explain`` above is the answer: for each pass it names the backend,
# and for each backend the measured time or the reason for refusing. ``accepts`` means that nothing was measured yet.
#
# **Falling back to PyTorch.** In the default setting, striate calls PyTorch's function if its own kernels save less
# time than Python costs. No kernel of striate appears in the recording then.

with torch.no_grad():
    ops.conv2d(x, w, padding=1)
    default = tour.calls(lambda: ops.conv2d(x, w, padding=1))
print(*(f"{'  ' * each.depth}{each.file} {each.name}" for each in default), sep="\n")

# %%
# **The gradient** is the same sum with another operand open, so it takes the same path twice: once for the input, once
# for the weight.

x.requires_grad_()
w.requires_grad_()
with engine.use("llvm"):
    for _ in range(2):  # the first call prepares both gradients
        output = ops.conv2d(x, w, padding="same")
        upstream = torch.ones_like(output)
        backward = tour.calls(lambda output=output, upstream=upstream: output.backward(upstream))
remarks = {
    "ops/convolution.py:_Contraction.backward": "called by autograd",
    "ops/convolution.py:contract": "the form T(x, w, g) with x open",
    "ops/convolution.py:_Contraction.forward": "an operation again: it has gradients too",
    "engine/llvm/convolution/sums.py:PreparedSum.__call__": "the input gradient, a sum over windows",
    "engine/llvm/convolution/weight_sums.py:_WeightSum.__call__": "the weight gradient, a sum over places",
}
tour.draw_path({"backward": (backward, remarks)})
plt.show()
