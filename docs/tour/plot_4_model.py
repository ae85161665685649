"""
A whole network
===============

``striate.accelerate(model)`` takes a PyTorch model as it is and computes it with the engine. This page shows what
becomes of the model: a graph, then fused blocks for training, then a plan for inference.
"""

import torch

import striate
from striate import acceleration

torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(1, 8, 3, padding=1),
    torch.nn.ReLU(),
    torch.nn.MaxPool2d(2),
    torch.nn.Conv2d(8, 16, 3, padding=1, bias=False),
    torch.nn.BatchNorm2d(16),
    torch.nn.ReLU(),
    torch.nn.Flatten(),
    torch.nn.Linear(16 * 14 * 14, 10),
)
images = torch.rand(4, 1, 28, 28)
expected = model(images)
striate.accelerate(model, quiet=True)

# %%
# **The graph.** The first call captures the model's Python code with PyTorch's Dynamo. Dynamo runs the code, writes
# down the tensor functions in order, and notes what the code read on the way: attributes, shapes, modes. These notes
# are the *guards*. As long as they hold, the graph may replace the code.

got = model(images)
torch.testing.assert_close(got, expected)

# %%
# **Blocks.** With gradients, ``acceleration/blocks/fusion.py`` looks for groups of functions whose intermediate maps
# nobody else reads, and fuses each into one operation with one gradient. Here six layers became two operations:
# convolution, ReLU and pooling; convolution, batch normalisation and ReLU.

print(acceleration.blocks_of(model))
assert acceleration.blocks_of(model) == {"": "0 + 1 + 2, 3 + 4 + 5"}
got.sum().backward()

# %%
# **A plan.** Without gradients the whole graph becomes a list of kernels that run one after the other, without Python
# in between. Eight layers became three steps. In inference, batch normalisation is a factor and an offset for each
# channel, so both are folded into the weights. The activations are applied to sums while these are in registers. The
# flattened map is only another view of the same memory, and a linear layer is a convolution with a window over the
# whole map.

model.eval()
with torch.no_grad():
    model(images)
    plan = acceleration.plan_of(model, images)
print(plan)
assert "3 steps" in str(plan)
assert "batch_norm" not in str(plan)

# %%
# **The choice.** A plan, fused blocks and PyTorch's own functions all compute the same. Which one runs is measured,
# once for each graph and size of input. The handbook is built without measuring, so that its pages don't depend on a
# clock: the plan above is "not taken yet". On your machine, ``choices_of`` shows the measured times:
#
# .. code-block:: python
#
#     print(*acceleration.choices_of(model), sep="\n")
#
# **Which part is wrong?** If an accelerated model gives other numbers than the plain one, :doc:`/ACCELERATE` leads to
# the part: switch plans off, then blocks, then striate's kernels, and compare after each step.

acceleration.restore(model)
assert acceleration.blocks_of(model) == {}
