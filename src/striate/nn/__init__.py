"""Layers: parameters, initialisation and a call to :mod:`striate.ops`. Those that torch.nn has are drop-in for it."""

from striate.nn.antialiasing import BlurPool2d, PolyphaseSampling2d
from striate.nn.attention import SelfAttention, SelfAttention2d
from striate.nn.blocks import ConvNormActivation, SqueezeExcite, StochasticDepth
from striate.nn.convolution import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from striate.nn.features import FeatureMaps
from striate.nn.graph import GraphConv, grid_adjacency
from striate.nn.normalization import LayerNorm2d
from striate.nn.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    GlobalAvgPool,
    GlobalMaxPool,
    LPPool1d,
    LPPool2d,
    LPPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
)
from striate.nn.residual import BasicBlock, Bottleneck, InvertedResidual
from striate.nn.separable import DepthwiseSeparableConv2d

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BasicBlock",
    "BlurPool2d",
    "Bottleneck",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvNormActivation",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "DepthwiseSeparableConv2d",
    "FeatureMaps",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GraphConv",
    "InvertedResidual",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "LayerNorm2d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "PolyphaseSampling2d",
    "SelfAttention",
    "SelfAttention2d",
    "SqueezeExcite",
    "StochasticDepth",
    "grid_adjacency",
]
