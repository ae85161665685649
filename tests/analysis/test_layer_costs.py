"""Each of PyTorch's own layers has a cost: products by hand, what only moves numbers, and nothing silently zero."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.flop_counter import FlopCounterMode
from torch_layers import CASES, NOT_RUN, randn

from cases import quick_but
from striate.analysis import conventions, counting, summarize
from striate.analysis.counting import work
from striate.analysis.trace import Operation, Value
from striate.errors import AnalysisError

#: Layers with products, and how many. Tokens are (5, 3, 8), rows (6, 8), maps (2, 4, 12, ...).
_ENCODER = 15 * (4 * 8 * 8 + 2 * 8 * 16) + 3 * 2 * 5 * 5 * 8
_DECODER = 15 * (8 * 8 * 8 + 2 * 8 * 16) + 2 * 3 * 2 * 5 * 5 * 8
MACS = {
    **dict.fromkeys(("Conv1d", "LazyConv1d"), 2 * 10 * 6 * 4 * 3),
    **dict.fromkeys(("Conv2d", "LazyConv2d"), 2 * 100 * 6 * 4 * 9),
    **dict.fromkeys(("Conv3d", "LazyConv3d"), 2 * 64 * 6 * 4 * 27),
    **dict.fromkeys(("ConvTranspose1d",), 2 * 12 * 6 * 4 * 3),
    **dict.fromkeys(("ConvTranspose2d",), 2 * 144 * 6 * 4 * 9),
    **dict.fromkeys(("ConvTranspose3d",), 2 * 216 * 6 * 4 * 27),
    **{f"LazyConvTranspose{n}d": 2 * positions * 6 * 4 * 3**n for n, positions in ((1, 12), (2, 144), (3, 216))},
    "Sequential": 2 * 100 * 2 * 4 * 9,
    **dict.fromkeys(("Linear", "LazyLinear"), 6 * 8 * 3),
    "LinearCrossEntropyLoss": 6 * 8 * 5,
    "Bilinear": 6 * 3 * 8 * 8,
    "RNNCell": 6 * 7 * (8 + 7),
    "GRUCell": 6 * 3 * 7 * (8 + 7),
    "LSTMCell": 6 * 4 * 7 * (8 + 7),
    # Two directions; the second layer gets what both have made.
    "RNN": 15 * 2 * 7 * ((8 + 7) + (14 + 7)),
    "GRU": 15 * 2 * 3 * 7 * ((8 + 7) + (14 + 7)),
    "LSTM": 15 * 2 * 4 * 7 * ((8 + 7) + (14 + 7)),
    "MultiheadAttention": 15 * 4 * 8 * 8 + 3 * 2 * 5 * 5 * 8,
    **dict.fromkeys(("TransformerEncoder", "TransformerEncoderLayer"), _ENCODER),
    **dict.fromkeys(("TransformerDecoder", "TransformerDecoderLayer"), _DECODER),
    "Transformer": _ENCODER + _DECODER,
}
#: Layers that compute nothing.
MOVE = frozenset({
    "Identity", "Flatten", "Unflatten", "Unfold", "PixelShuffle", "PixelUnshuffle", "ChannelShuffle", "Embedding",
    "UpsamplingNearest2d", "Dropout", "AlphaDropout", "FeatureAlphaDropout",
    *(f"Dropout{n}d" for n in (1, 2, 3)), *(f"MaxUnpool{n}d" for n in (1, 2, 3)),
    *(f"{kind}Pad{n}d" for kind in ("Circular", "Reflection", "Replication", "Zero", "Constant") for n in (1, 2, 3)),
})  # fmt: skip
#: Layers that look at numbers to decide what they do, and are refused.
STEERED = frozenset({"GaussianNLLLoss", "CTCLoss", "AdaptiveLogSoftmaxWithLoss"})


def test_all_of_pytorchs_layers_are_here() -> None:
    assert set(CASES) | NOT_RUN >= set(nn.modules.__all__)
    assert set(MACS) | MOVE | STEERED <= set(CASES)


@pytest.mark.parametrize("name", sorted(set(CASES) - NOT_RUN))
def test_no_layer_counts_as_nothing(name: str) -> None:
    build, inputs = CASES[name]
    if name in STEERED:
        with pytest.raises(AnalysisError, match="values steer the computation"):
            summarize(build(), list(inputs))
        return
    found = summarize(build(), list(inputs))
    assert (found.macs, found.at_least) == (MACS.get(name, 0), False)
    assert not [line for line in found.not_counted if line.startswith("aten.")]
    assert (found.flops > 0) == (name not in MOVE)
    assert found.flops >= 2 * found.macs
    trainable = any(parameter.requires_grad for parameter in build().parameters())
    if found.macs and trainable:
        assert found.backward_macs >= found.macs * 0.9


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x @ x).sort(-1)[0] + (x @ x).sort(-2)[0]


def test_totals_with_uncounted_operators_are_lower_bounds() -> None:
    found = summarize(Sorted(), randn(4, 4))
    assert found.at_least
    assert found.to_dict()["at_least"] is True
    assert found.macs == 2 * 64
    assert "aten.sort x2 in (network)" in found.not_counted
    assert not summarize(nn.Linear(2, 3), (2,)).to_dict()["at_least"]


def test_the_tables_hold_operators_that_exist_once() -> None:
    tables = (conventions.FREE, conventions.PER_INPUT, conventions.PER_OUTPUT, conventions.PER_SOURCE, counting._RULES)
    names = [name for table in tables for name in table]
    assert [name for name in names if not hasattr(torch.ops.aten, name)] == []
    assert [name for name in set(names) if names.count(name) > 1] == []


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize(
    "options",
    quick_but(
        [{}, {"num_layers": 3}, {"bidirectional": True, "num_layers": 2}, {"bias": False}, {"batch_first": True}],
        [{"bidirectional": True, "num_layers": 2}, {"batch_first": True}],
    ),
)
def test_recurrent_layers(kind: str, options: dict[str, Any]) -> None:
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]
    x = randn(3, 5, 6) if options.get("batch_first") else randn(5, 3, 6)
    layers, directions = options.get("num_layers", 1), 1 + options.get("bidirectional", False)
    each = [15 * gates * 4 * ((6 if layer == 0 else 4 * directions) + 4) for layer in range(layers)]
    found = summarize(getattr(nn, kind)(6, 4, **options), x)
    assert found.macs == directions * sum(each)
    # Every product but the data's and the first state's has two gradients.
    data, first = directions * 15 * gates * 4 * 6, layers * directions * 3 * gates * 4 * 4
    assert found.backward_macs == 2 * found.macs - data - first
    assert found.saved_bytes
    with torch.backends.mkldnn.flags(enabled=False):  # the same by single operators
        plain = summarize(getattr(nn, kind)(6, 4, **options), x)
    assert (plain.macs, plain.flops, plain.backward_macs) == (found.macs, found.flops, found.backward_macs)


def test_projections_packed_sequences_and_initial_states() -> None:
    projected = nn.LSTM(6, 4, proj_size=2)
    assert summarize(projected, randn(5, 3, 6)).macs == 15 * (16 * (6 + 2) + 4 * 2)
    for packed in (
        pack_sequence([randn(5, 6), randn(3, 6)]),
        pack_sequence([randn(3, 6), randn(5, 6)], enforce_sorted=False),
    ):
        assert summarize(nn.LSTM(6, 4), packed).macs == 8 * 16 * (6 + 4)
        assert summarize(nn.GRU(6, 4), packed).macs == 8 * 12 * (6 + 4)
    state = (randn(1, 3, 4), randn(1, 3, 4))
    found = summarize(nn.LSTM(6, 4), [randn(5, 3, 6), state])
    assert found.macs == 15 * 16 * 10
    assert found.inputs == {"input": (5, 3, 6), "hx[0]": (1, 3, 4), "hx[1]": (1, 3, 4)}


def test_a_recurrent_operator_that_holds_all_layers() -> None:
    # As on a GPU: two layers in two directions, input 6, hidden 4 projected to 2, packed to 4, 4, 3 and 1 rows.
    def value(*shape: int) -> Value:
        return Value(shape, torch.float32, 0, 0, "parameter", learns=True)

    shapes = [(16, inside) for inside in (6, 6, 4, 4)]
    weights = [each for shape in shapes for each in (value(*shape), value(16, 2), value(16), value(16), value(2, 4))]
    data, state = value(12, 6), Value((4, 4, 2), torch.float32, 0, 0, "activation")
    data.learns = False
    args = (data, weights, 5, None, state, None, 2, 4, 2, 2, False, 0.0, True, True, [4, 4, 3, 1], None)
    found = work(Operation(torch.ops.aten._cudnn_rnn.default, args, {}, (value(12, 4),), (), 0))
    assert found is not None
    each = [12 * (16 * inside + 16 * 2 + 4 * 2) for _, inside in shapes]
    assert found.macs == sum(each)
    assert found.backward_macs == 2 * sum(each) - 2 * 12 * 16 * 6 - 4 * 4 * 16 * 2


PRODUCTS = {
    "matmul": lambda a, b: a @ b,
    "einsum": lambda a, b: torch.einsum("bij,bjk,bkl->bil", a, b, a),
    "baddbmm": lambda a, b: torch.baddbmm(a, a, b),
    "linear": lambda a, b: F.linear(a, b[0], b[0, 0]),
    "tensordot": lambda a, b: torch.tensordot(a, b, ([1, 2], [2, 1])),
}


class Product(nn.Module):
    def __init__(self, act: Any) -> None:
        super().__init__()
        self.act, self.scale = act, nn.Parameter(torch.ones(()))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.act(a * self.scale, b * self.scale)


@pytest.mark.parametrize("name", PRODUCTS)
def test_pytorchs_counter_agrees_on_products(name: str) -> None:
    model, inputs = Product(PRODUCTS[name]), [randn(2, 4, 4), randn(2, 4, 4)]
    with FlopCounterMode(display=False) as counter:
        output = model(*inputs)
    forward = counter.get_total_flops()
    assert forward > 0
    found = summarize(model, inputs)
    assert 2 * found.macs == forward
    with counter:
        output.sum().backward()
    assert found.backward_flops == counter.get_total_flops()


@pytest.mark.parametrize(
    ("act", "macs", "backward"),
    [
        (lambda a, b: torch.mv(a[0], b[0, 0]), 16, 32),
        (lambda a, b: torch.dot(a[0, 0], b[0, 0]), 4, 8),
        (lambda a, b: torch.vdot(a[0, 0], b[0, 0]), 4, 8),
        (lambda a, b: torch.addmv(a[0, 0], a[0], b[0, 0]), 16, 32),
        (lambda a, b: torch.addbmm(a[0], a, b), 2 * 64, 4 * 64),
        (lambda a, b: torch.addr(a[0], a[0, 0], b[0, 0]), 0, 0),
        (lambda a, b: torch.cdist(a, b), 0, 0),
        (lambda a, b: torch.cdist(a.repeat(1, 20, 1), b), 2 * 80 * 4 * 4, 4 * 80 * 4 * 4),
        (lambda a, b: F.pdist(a[0]), 0, 0),
        (lambda a, b: F.grid_sample(a[None], b[None, :, :, :2], align_corners=False), 0, 0),
        (lambda a, b: F.interpolate(a[None], (2, 3), mode="bicubic", antialias=True), 0, 0),
        (lambda a, b: F.embedding_bag(torch.tensor([[0, 1]]), a[0], per_sample_weights=b[:1, 0, :2], mode="sum"), 0, 0),
        (lambda a, b: torch.zeros_like(a).index_add(0, torch.tensor([1, 0]), b), 0, 0),
    ],
)
def test_other_products_and_sums(act: Any, macs: int, backward: int) -> None:
    found = summarize(Product(act), [randn(2, 4, 4), randn(2, 4, 4)])
    assert (found.macs, found.at_least) == (macs, False)
    assert found.flops > 2 * 16
    assert found.backward_macs == backward


def test_heads_that_share_keys_and_frozen_values() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Parameter(randn(1, 4, 5, 8))

        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(self.query, x, x, enable_gqa=True)

    found = summarize(Shared(), randn(1, 2, 6, 8))
    one = 4 * 5 * 6 * 8  # queries by keys, and as much weights by values
    assert found.macs == 2 * one
    assert found.backward_macs == 2 * one  # by the queries, through the weights
