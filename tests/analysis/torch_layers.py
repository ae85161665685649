"""A small instance of each of PyTorch's own layers, with inputs that it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

#: Layers and the inputs of a call.
Case = tuple[Callable[[], nn.Module], tuple[Any, ...]]


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


LINE, PLANE, SPACE = randn(2, 4, 12), randn(2, 4, 12, 12), randn(2, 4, 6, 6, 6)
ROWS, OTHER, TOKENS = randn(6, 8), randn(6, 8) + 1, randn(5, 3, 8)
CLASSES, SIGNS = torch.arange(6) % 8, torch.ones(6)
PROBABILITIES = ROWS.sigmoid()
BY_DIMS = {1: LINE, 2: PLANE, 3: SPACE}

CASES: dict[str, Case] = {}
for _dims, _x in BY_DIMS.items():
    CASES |= {
        f"Conv{_dims}d": (lambda n=_dims: getattr(nn, f"Conv{n}d")(4, 6, 3), (_x,)),
        f"ConvTranspose{_dims}d": (lambda n=_dims: getattr(nn, f"ConvTranspose{n}d")(4, 6, 3, 2), (_x,)),
        f"LazyConv{_dims}d": (lambda n=_dims: getattr(nn, f"LazyConv{n}d")(6, 3), (_x,)),
        f"LazyConvTranspose{_dims}d": (lambda n=_dims: getattr(nn, f"LazyConvTranspose{n}d")(6, 3), (_x,)),
        f"MaxPool{_dims}d": (lambda n=_dims: getattr(nn, f"MaxPool{n}d")(2), (_x,)),
        f"AvgPool{_dims}d": (lambda n=_dims: getattr(nn, f"AvgPool{n}d")(2), (_x,)),
        f"LPPool{_dims}d": (lambda n=_dims: getattr(nn, f"LPPool{n}d")(2, 2), (_x,)),
        f"AdaptiveMaxPool{_dims}d": (lambda n=_dims: getattr(nn, f"AdaptiveMaxPool{n}d")(5), (_x,)),
        f"AdaptiveAvgPool{_dims}d": (lambda n=_dims: getattr(nn, f"AdaptiveAvgPool{n}d")(5), (_x,)),
        f"MaxUnpool{_dims}d": (
            lambda n=_dims: getattr(nn, f"MaxUnpool{n}d")(2),
            getattr(nn.functional, f"max_pool{_dims}d_with_indices")(_x, 2),
        ),
        f"Dropout{_dims}d": (lambda n=_dims: getattr(nn, f"Dropout{n}d")(), (_x,)),
        **{
            f"{kind}Norm{_dims}d": (lambda n=_dims, k=kind: getattr(nn, f"{k}Norm{n}d")(4), (_x,))
            for kind in ("Batch", "Instance")
        },
        **{
            f"Lazy{kind}Norm{_dims}d": (lambda n=_dims, k=kind: getattr(nn, f"Lazy{k}Norm{n}d")(), (_x,))
            for kind in ("Batch", "Instance")
        },
        **{
            f"{kind}Pad{_dims}d": (lambda n=_dims, k=kind: getattr(nn, f"{k}Pad{n}d")(1), (_x,))
            for kind in ("Circular", "Reflection", "Replication", "Zero")
        },
        f"ConstantPad{_dims}d": (lambda n=_dims: getattr(nn, f"ConstantPad{n}d")(1, 2.0), (_x,)),
    }  # fmt: skip
CASES |= {
    f"FractionalMaxPool{n}d": (lambda n=n: getattr(nn, f"FractionalMaxPool{n}d")(2, 3), (BY_DIMS[n],)) for n in (2, 3)
}

ACTIVATIONS = (
    "CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid",
    "Mish", "PReLU", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign", "Tanh",
    "Tanhshrink", "Identity", "Dropout", "AlphaDropout", "FeatureAlphaDropout",
)  # fmt: skip
CASES |= {name: (getattr(nn, name), (PLANE,)) for name in ACTIVATIONS}
CASES |= {name: (lambda name=name: getattr(nn, name)(1), (PLANE,)) for name in ("Softmax", "LogSoftmax", "Softmin")}

LOSSES: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "PoissonNLLLoss"), (ROWS, OTHER)),
    "BCELoss": (PROBABILITIES, (SIGNS[:, None] * torch.ones(6, 8))),
    "BCEWithLogitsLoss": (ROWS, torch.ones(6, 8)),
    "KLDivLoss": (ROWS.log_softmax(1), PROBABILITIES),
    **dict.fromkeys(("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss"), (ROWS, CLASSES)),
    "NLLLoss2d": (PLANE, torch.zeros(2, 12, 12, dtype=torch.long)),
    "CosineEmbeddingLoss": (ROWS, OTHER, SIGNS),
    "MarginRankingLoss": (ROWS[:, 0], OTHER[:, 0], SIGNS),
    **dict.fromkeys(("HingeEmbeddingLoss", "SoftMarginLoss"), (ROWS, torch.ones(6, 8))),
    "MultiLabelMarginLoss": (ROWS, torch.zeros(6, 8, dtype=torch.long)),
    "MultiLabelSoftMarginLoss": (ROWS, torch.ones(6, 8)),
    "GaussianNLLLoss": (ROWS, OTHER, torch.ones(6, 8)),
    **dict.fromkeys(("TripletMarginLoss", "TripletMarginWithDistanceLoss"), (ROWS, OTHER, ROWS + 2)),
    "CTCLoss": (randn(9, 2, 5).log_softmax(2), torch.ones(2, 3, dtype=torch.long), (9, 9), (3, 3)),
}  # fmt: skip
CASES |= {name: (getattr(nn, name), inputs) for name, inputs in LOSSES.items()}

CASES |= {
    "AdaptiveLogSoftmaxWithLoss": (lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10]), (ROWS, CLASSES)),
    "Bilinear": (lambda: nn.Bilinear(8, 8, 3), (ROWS, OTHER)),
    "ChannelShuffle": (lambda: nn.ChannelShuffle(2), (PLANE,)),
    "CosineSimilarity": (nn.CosineSimilarity, (ROWS, OTHER)),
    "CrossMapLRN2d": (lambda: nn.CrossMapLRN2d(3), (PLANE,)),
    "Embedding": (lambda: nn.Embedding(10, 4), (CLASSES,)),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(10, 4), (CLASSES.view(2, 3),)),
    "Flatten": (nn.Flatten, (PLANE,)),
    "Fold": (lambda: nn.Fold((6, 6), 3), (randn(2, 36, 16),)),
    "GRU": (lambda: nn.GRU(8, 7, 2, bidirectional=True), (TOKENS,)),
    "GRUCell": (lambda: nn.GRUCell(8, 7), (ROWS,)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (PLANE,)),
    "LSTM": (lambda: nn.LSTM(8, 7, 2, bidirectional=True), (TOKENS,)),
    "LSTMCell": (lambda: nn.LSTMCell(8, 7), (ROWS,)),
    "LayerNorm": (lambda: nn.LayerNorm(12), (PLANE,)),
    "LazyLinear": (lambda: nn.LazyLinear(3), (ROWS,)),
    "Linear": (lambda: nn.Linear(8, 3), (ROWS,)),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(3), (PLANE,)),
    "ModuleDict": (nn.ModuleDict, ()),
    "ModuleList": (nn.ModuleList, ()),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(8, 2), (TOKENS, TOKENS, TOKENS)),
    "PairwiseDistance": (nn.PairwiseDistance, (ROWS, OTHER)),
    "ParameterDict": (nn.ParameterDict, ()),
    "ParameterList": (nn.ParameterList, ()),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), (PLANE,)),
    "PixelUnshuffle": (lambda: nn.PixelUnshuffle(2), (PLANE,)),
    "RMSNorm": (lambda: nn.RMSNorm(12), (PLANE,)),
    "RNN": (lambda: nn.RNN(8, 7, 2, bidirectional=True), (TOKENS,)),
    "RNNCell": (lambda: nn.RNNCell(8, 7), (ROWS,)),
    "Sequential": (lambda: nn.Sequential(nn.Conv2d(4, 2, 3)), (PLANE,)),
    "Softmax2d": (nn.Softmax2d, (PLANE,)),
    "Threshold": (lambda: nn.Threshold(0.1, 2.0), (PLANE,)),
    "Transformer": (lambda: nn.Transformer(8, 2, 1, 1, 16), (TOKENS, TOKENS)),
    "TransformerDecoder": (
        lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16), 1), (TOKENS, TOKENS),
    ),
    "TransformerDecoderLayer": (lambda: nn.TransformerDecoderLayer(8, 2, 16), (TOKENS, TOKENS)),
    "TransformerEncoder": (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 1), (TOKENS,)),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(8, 2, 16), (TOKENS,)),
    "Unflatten": (lambda: nn.Unflatten(1, (2, 2)), (PLANE,)),
    "Unfold": (lambda: nn.Unfold(3), (PLANE,)),
    "Upsample": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), (PLANE,)),
    "UpsamplingBilinear2d": (lambda: nn.UpsamplingBilinear2d(scale_factor=2), (PLANE,)),
    "UpsamplingNearest2d": (lambda: nn.UpsamplingNearest2d(scale_factor=2), (PLANE,)),
    "LinearCrossEntropyLoss": (lambda: nn.LinearCrossEntropyLoss(8, 5), (ROWS, CLASSES % 5)),
}  # fmt: skip

#: Not layers that run by themselves: bases, containers, options, and what wants several processes.
NOT_RUN = frozenset({
    "Container", "Module", "RNNBase", "RNNCellBase", "SyncBatchNorm", "LinearCrossEntropyOptions", "ModuleDict",
    "ModuleList", "ParameterDict", "ParameterList",
})  # fmt: skip
