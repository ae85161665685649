"""Layers: parameters, initialisation and a call to :mod:`striate.ops`.

A layer with the name of a torch.nn layer is a drop-in replacement for it.
"""

from striate.nn.anchors import AnchorGenerator
from striate.nn.antialiasing import BlurPool2d, PolyphaseSampling2d
from striate.nn.attention import SelfAttention, SelfAttention2d
from striate.nn.blocks import ConvNormActivation, SqueezeExcite, StochasticDepth
from striate.nn.convolution import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from striate.nn.default_boxes import DefaultBoxes, linear_scales
from striate.nn.detection_input import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DetectionInput,
    ImageBatch,
    paste_masks,
    resize_boxes,
)
from striate.nn.detection_targets import Target, check_images, check_targets
from striate.nn.features import FeatureMaps
from striate.nn.graph import GraphConv, grid_adjacency
from striate.nn.matching import BACKGROUND, BETWEEN, BalancedSampler, BoxCoder, Matcher, matched
from striate.nn.normalization import FrozenBatchNorm2d, LayerNorm2d, freeze_batch_norm
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
from striate.nn.proposals import ProposalHead, RegionProposalNetwork
from striate.nn.pyramid import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7, PyramidBackbone
from striate.nn.regions import MultiScaleRoIAlign
from striate.nn.residual import BasicBlock, Bottleneck, InvertedResidual
from striate.nn.separable import DepthwiseSeparableConv2d

__all__ = [
    "BACKGROUND",
    "BETWEEN",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AnchorGenerator",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BalancedSampler",
    "BasicBlock",
    "BlurPool2d",
    "Bottleneck",
    "BoxCoder",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvNormActivation",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "DefaultBoxes",
    "DepthwiseSeparableConv2d",
    "DetectionInput",
    "FeatureMaps",
    "FeaturePyramidNetwork",
    "FrozenBatchNorm2d",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GraphConv",
    "ImageBatch",
    "InvertedResidual",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "LastLevelMaxPool",
    "LastLevelP6P7",
    "LayerNorm2d",
    "Matcher",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MultiScaleRoIAlign",
    "PolyphaseSampling2d",
    "ProposalHead",
    "PyramidBackbone",
    "RegionProposalNetwork",
    "SelfAttention",
    "SelfAttention2d",
    "SqueezeExcite",
    "StochasticDepth",
    "Target",
    "check_images",
    "check_targets",
    "freeze_batch_norm",
    "grid_adjacency",
    "linear_scales",
    "matched",
    "paste_masks",
    "resize_boxes",
]
