"""
One kernel, from formula to machine code
========================================

This page follows a convolution through four languages: the formula, the loops, LLVM's intermediate code and machine
code. It generates AVX2 code, whatever machine it runs on, so you see the same code everywhere.

.. formula:: F4
"""

import re

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle

from striate import engine, ops
from striate.engine.llvm.codegen import launch, machine_code
from striate.engine.llvm.codegen.isa import AVX2
from striate.engine.llvm.convolution import nhwc
from striate.engine.llvm.convolution.nhwc import ChannelTile

# %%
# **The formula** is defined in ``engine/reference.py`` as a direct sum, in double precision. It is slow, and every
# kernel is compared with it.

torch.manual_seed(0)
x, w = torch.randn(1, 16, 10, 10), torch.randn(32, 16, 3, 3)
defined = ops.reference.conv2d(x, w)
pixel = sum(x[0, c, 2 + i, 5 + j].double() * w[7, c, i, j] for c in range(16) for i in range(3) for j in range(3))
assert torch.isclose(defined[0, 7, 2, 5], pixel)

# %%
# **The loops.** Each kernel's file begins with its loops in words. In this one the channels of a pixel lie side by side
# in memory (*channels last*), and a vector register holds neighbouring *output* channels.

text = nhwc.__doc__
print(text[text.index("    for every item") : text.index("An input is broadcast")].rstrip())

# %%
# **The tile.** A sum that stays in a register costs no memory access. AVX2 has 16 vector registers of 8 numbers. The
# generator estimates the cost of every tile that fits and takes the cheapest: P columns of the image times V vectors of
# channels. In each step it loads V vectors of weights and P inputs, and multiplies each with each.

tile = ChannelTile.choose(AVX2, channels=32, width=56)
print(tile)
totals = tile.columns * tile.vectors
assert totals + tile.vectors + 1 <= AVX2.registers

figure, axis = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
for p in range(tile.columns):
    axis.add_patch(Rectangle((-2.4, -p), 1.9, 0.8, facecolor="#8fbf8f", edgecolor="#444444"))
    axis.text(-1.45, -p + 0.4, f"input of column {p}", ha="center", va="center", fontsize=8)
    for v in range(tile.vectors):
        axis.add_patch(Rectangle((2.1 * v, -p), 1.9, 0.8, facecolor="#e8b04a", edgecolor="#444444"))
        axis.text(2.1 * v + 0.95, -p + 0.4, f"total[{p}][{v}]", ha="center", va="center", fontsize=8)
for v in range(tile.vectors):
    axis.add_patch(Rectangle((2.1 * v, 1.2), 1.9, 0.8, facecolor="#7fa6d6", edgecolor="#444444"))
    axis.text(2.1 * v + 0.95, 1.6, f"weights of\nchannels {8 * v} to {8 * v + 7}", ha="center", va="center", fontsize=8)
axis.set(xlim=(-2.6, 2.1 * tile.vectors + 0.1), ylim=(-tile.columns + 0.8, 2.2), aspect="equal")
axis.axis("off")
plt.show()

# %%
# **Intermediate code.** Python writes LLVM's language as text (``engine/llvm/codegen/ir.py``): a loop in Python that
# runs while the text is written is unrolled in the kernel, and ``f.loop`` writes a loop that runs in the kernel. This
# is the innermost loop of the kernel, over the input channels.

function = nhwc.generate(AVX2, tile, direct=True)
blocks = re.split(r"(?m)^(?=\w+:$)", function.text())
innermost = next(block for block in blocks[1:] if "@llvm.fma" in block)
print(innermost)
assert innermost.count("call <8 x float> @llvm.fma") == totals

# %%
# The totals look as if they were in memory (``%slot``). LLVM keeps them in registers, because only this function uses
# their addresses.
#
# **Machine code.** The same loop, compiled. ``vbroadcastss`` copies one input to all lanes, and each ``vfmadd231ps``
# does 8 multiplications and 8 additions.

assembly = machine_code.to_assembly(launch.module(function), AVX2)
loops = re.findall(r"(?m)^(\.LBB\S+):\n((?:\s.*\n)*?)\s+j\w+\s+\1$", assembly)
inner = min((body for _, body in loops if "vfmadd" in body), key=len)
print(inner)
assert inner.count("vfmadd231ps") == totals
assert inner.count("vbroadcastss") == tile.columns
assert inner.count("vmovups") == tile.vectors  # the weights
assert "(%rsp)" not in inner  # no total is spilled to the stack

# %%
# That is what a processor can do: everything in the loop but four instructions loads an operand or multiplies.

instructions = [line.split()[0] for line in inner.splitlines() if line.strip() and not line.strip().startswith(".")]
useful = [name for name in instructions if name in ("vfmadd231ps", "vbroadcastss", "vmovups")]
print(f"{len(useful)} of {len(instructions) + 1} instructions, with the jump")
assert len(instructions) + 1 - len(useful) == 4

# %%
# **Run it.** Your machine runs the same kernel for its own instruction set. The result differs from the definition by
# rounding only.

last = torch.channels_last
with engine.use("llvm"):
    computed = ops.conv2d(x.to(memory_format=last), w)
difference = float((computed - defined).abs().max())
print(f"largest difference from the definition: {difference:.1e}")
assert difference < 1e-4
assert computed.is_contiguous(memory_format=last)

# %%
# **How fast is it?** ``striate bench`` times operations on your machine beside PyTorch's, and
# :func:`striate.engine.time_problem` sets one problem beside the limits of the processor and its memory. Which tests
# hold this kernel? ``tests/engine/llvm`` compares it with the reference on random problems, for every instruction set
# that the machine has.
