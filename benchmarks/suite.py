"""The layers that are timed: geometries of real networks at their own sizes, batches that fit a laptop.

Sources: LeCun et al. 1998 (LeNet-5); Krizhevsky 2014 (AlexNet); Simonyan & Zisserman 2015 (VGG); He et al. 2016
(ResNet, with torchvision's stride on the 3x3) and 2019 (ResNet-D's average pooling); Xie et al. 2017 (ResNeXt); Howard
et al. 2017, Sandler et al. 2018 (MobileNet); Tan & Le 2019 (EfficientNet); Liu et al. 2022 (ConvNeXt); Dai et al. 2017
(M5, raw audio); van den Oord et al. 2016 (WaveNet's causal dilation); Gu & Dao 2023 (Mamba's short causal convolution);
Yu & Koltun 2016 (dilated context).
"""

from __future__ import annotations

from striate.geometry import ConvShape, PoolShape, Problem, parse

LAYERS = {
    "LeNet-5 C1": "conv2d 128x1x32x32 6x1x5x5",
    "LeNet-5 C3": "conv2d 128x6x14x14 16x6x5x5",
    "LeNet-5 C5": "conv2d 128x16x5x5 120x16x5x5",
    "LeNet-5 S2, average": "avg_pool2d 128x6x28x28 kernel=2 stride=2",
    "LeNet-5 S4, maximum": "max_pool2d 128x16x10x10 kernel=2 stride=2",
    "simple_cnn conv1": "conv2d 128x1x28x28 32x1x3x3 padding=1",
    "simple_cnn pool1": "max_pool2d 128x32x28x28 kernel=2 stride=2",
    "simple_cnn conv2": "conv2d 128x32x14x14 64x32x3x3 padding=1",
    "simple_cnn pool2": "max_pool2d 128x64x14x14 kernel=2 stride=2",
    "AlexNet conv1": "conv2d 4x3x224x224 64x3x11x11 stride=4 padding=2",
    "AlexNet conv2": "conv2d 4x64x27x27 192x64x5x5 padding=2",
    "AlexNet conv3": "conv2d 4x192x13x13 384x192x3x3 padding=1",
    "AlexNet pool1": "max_pool2d 4x64x55x55 kernel=3 stride=2",
    "AlexNet pool5": "max_pool2d 16x256x13x13 kernel=3 stride=2",
    "VGG conv1_1": "conv2d 2x3x224x224 64x3x3x3 padding=1",
    "VGG conv1_2": "conv2d 1x64x224x224 64x64x3x3 padding=1",
    "VGG conv2_2": "conv2d 1x128x112x112 128x128x3x3 padding=1",
    "VGG conv3_2": "conv2d 1x256x56x56 256x256x3x3 padding=1",
    "VGG conv4_2": "conv2d 1x512x28x28 512x512x3x3 padding=1",
    "VGG pool1": "max_pool2d 1x64x224x224 kernel=2 stride=2",
    "VGG pool3": "max_pool2d 4x256x56x56 kernel=2 stride=2",
    "ResNet conv1": "conv2d 4x3x224x224 64x3x7x7 stride=2 padding=3",
    "ResNet pool": "max_pool2d 4x64x112x112 kernel=3 stride=2 padding=1",
    "ResNet 3x3 at 56": "conv2d 4x64x56x56 64x64x3x3 padding=1",
    "ResNet 3x3 at 28": "conv2d 4x128x28x28 128x128x3x3 padding=1",
    "ResNet 3x3 at 14": "conv2d 4x256x14x14 256x256x3x3 padding=1",
    "ResNet 3x3 at 7": "conv2d 4x512x7x7 512x512x3x3 padding=1",
    "ResNet 3x3 to 28": "conv2d 4x64x56x56 128x64x3x3 stride=2 padding=1",
    "ResNet 3x3 to 14": "conv2d 4x128x28x28 256x128x3x3 stride=2 padding=1",
    "ResNet 1x1 up": "conv2d 4x64x56x56 256x64x1x1",
    "ResNet 1x1 down": "conv2d 4x256x56x56 64x256x1x1",
    "ResNet 1x1 shortcut": "conv2d 4x256x56x56 512x256x1x1 stride=2",
    "ResNet global average": "avg_pool2d 32x512x7x7 kernel=7 stride=7",
    "ResNet-D average": "avg_pool2d 4x256x56x56 kernel=2 stride=2",
    "ResNeXt 3x3 at 56": "conv2d 4x128x56x56 128x4x3x3 padding=1 groups=32",
    "ResNeXt 3x3 at 14": "conv2d 4x512x14x14 512x16x3x3 padding=1 groups=32",
    "MobileNet conv1": "conv2d 4x3x224x224 32x3x3x3 stride=2 padding=1",
    "MobileNet depthwise at 112": "conv2d 4x32x112x112 32x1x3x3 padding=1 groups=32",
    "MobileNet depthwise to 56": "conv2d 4x96x112x112 96x1x3x3 stride=2 padding=1 groups=96",
    "MobileNet depthwise at 56": "conv2d 4x144x56x56 144x1x3x3 padding=1 groups=144",
    "MobileNet depthwise to 28": "conv2d 4x144x56x56 144x1x3x3 stride=2 padding=1 groups=144",
    "MobileNet depthwise at 28": "conv2d 4x192x28x28 192x1x3x3 padding=1 groups=192",
    "MobileNet depthwise at 14": "conv2d 4x384x14x14 384x1x3x3 padding=1 groups=384",
    "MobileNet depthwise at 7": "conv2d 4x960x7x7 960x1x3x3 padding=1 groups=960",
    "MobileNet expand at 112": "conv2d 4x16x112x112 96x16x1x1",
    "MobileNet project at 56": "conv2d 4x144x56x56 24x144x1x1",
    "MobileNet expand at 14": "conv2d 4x64x14x14 384x64x1x1",
    "EfficientNet 5x5 to 28": "conv2d 4x144x56x56 144x1x5x5 stride=2 padding=2 groups=144",
    "EfficientNet 5x5 at 28": "conv2d 4x240x28x28 240x1x5x5 padding=2 groups=240",
    "EfficientNet 5x5 at 14": "conv2d 4x672x14x14 672x1x5x5 padding=2 groups=672",
    "EfficientNet squeeze": "conv2d 32x240x1x1 10x240x1x1",
    "ConvNeXt patches": "conv2d 4x3x224x224 96x3x4x4 stride=4",
    "ConvNeXt 7x7 at 56": "conv2d 4x96x56x56 96x1x7x7 padding=3 groups=96",
    "ConvNeXt 7x7 at 28": "conv2d 4x192x28x28 192x1x7x7 padding=3 groups=192",
    "ConvNeXt 7x7 at 14": "conv2d 4x384x14x14 384x1x7x7 padding=3 groups=384",
    "ConvNeXt 7x7 at 7": "conv2d 4x768x7x7 768x1x7x7 padding=3 groups=768",
    "ConvNeXt downsample": "conv2d 4x96x56x56 192x96x2x2 stride=2",
    "dilated context": "conv2d 4x32x64x64 32x32x3x3 padding=4 dilation=4",
    "segmentation head": "conv2d 4x64x56x56 2x64x1x1",
    "super-resolution last": "conv2d 1x32x128x128 1x32x5x5 padding=2",
    "Sobel": "conv2d 16x1x224x224 2x1x3x3 padding=1",
    "M5 conv1, raw audio": "conv1d 8x1x8000 128x1x80 stride=4 padding=38",
    "M5 conv2": "conv1d 8x128x500 128x128x3 padding=1",
    "M5 pool": "max_pool1d 8x128x2000 kernel=4 stride=4",
    "WaveNet causal, dilated": "conv1d 4x64x2048 64x64x2 padding=16:0 dilation=16",
    "Mamba short causal": "conv1d 4x512x512 512x1x4 padding=3:0 groups=512",
    "one image, one filter": "conv2d 1x1x8x8 1x1x3x3",
    "blur, average of 3": "avg_pool2d 4x64x56x56 kernel=3 padding=1",
}


def family(problem: Problem) -> str:
    """What kind of layer it is: pooling, depthwise, grouped, few channels (below 16 on a side) or dense."""
    if isinstance(problem, PoolShape):
        return "pooling"
    inner, outer = problem.in_channels // problem.groups, problem.out_channels // problem.groups
    if problem.groups > 1:
        return "depthwise" if inner == 1 else "grouped"
    return "few channels" if min(inner, outer) < 16 else "dense"


def problems() -> dict[str, ConvShape | PoolShape]:
    return {name: parse(line) for name, line in LAYERS.items()}
