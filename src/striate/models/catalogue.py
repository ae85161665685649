"""Names and descriptions of striate's networks, without PyTorch, which takes a second to import.

The networks' own files repeat these names and descriptions, and ``tests/models/test_catalogue.py`` compares the two. A
file is imported when one of its networks is requested.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: The tasks of networks: one class an image; boxes with classes; a mask for each object; a class for each pixel.
TASKS: Final = ("classification", "detection", "semantic", "instance")


@dataclass(frozen=True)
class Family:
    """The networks of one paper.

    Args:
        module: the file in ``striate.models``.
        about: the first line of its docstring.
        networks: from names to descriptions, in the order in which the file registers them.
        task: what they do, one of :data:`TASKS`.
    """

    module: str
    about: str
    networks: dict[str, str]
    task: str = "classification"


FAMILIES: Final = (
    Family(
        "alexnet",
        "AlexNet: the network of 2012 on two GPUs, and its form in one tower of 2014.",
        {
            "alexnet": "AlexNet in one tower (2014); 61,100,840 parameters, 224x224 images.",
            "alexnet_2012": "AlexNet as in 2012: two groups, local response normalisation; 60,965,224 "
            "parameters, 224x224 images.",
        },
    ),
    Family(
        "coatnet",
        "CoAtNet: convolutions where maps are large, attention with relative positions where they are small.",
        {
            "coatnet_0": "CoAtNet-0; 24,446,228 parameters, 224x224 images.",
        },
    ),
    Family(
        "convnext",
        "ConvNeXt: a ResNet brought up to date, step by step, until it stands beside vision transformers.",
        {
            "convnext_tiny": "ConvNeXt-T; 28,589,128 parameters, 224x224 images.",
            "convnext_small": "ConvNeXt-S; 50,223,688 parameters, 224x224 images.",
            "convnext_base": "ConvNeXt-B; 88,591,464 parameters, 224x224 images.",
            "convnext_large": "ConvNeXt-L; 197,767,336 parameters, 224x224 images.",
        },
    ),
    Family(
        "densenet",
        "DenseNet: every layer sees the maps of all layers before it in its block.",
        {
            "densenet121": "DenseNet-121; 7,978,856 parameters, 224x224 images.",
            "densenet161": "DenseNet-161; 28,681,000 parameters, 224x224 images.",
            "densenet169": "DenseNet-169; 14,149,480 parameters, 224x224 images.",
            "densenet201": "DenseNet-201; 20,013,928 parameters, 224x224 images.",
        },
    ),
    Family(
        "efficientnet",
        "EfficientNet: one network, scaled in width, depth and resolution at once.",
        {
            "efficientnet_b0": "EfficientNet-B0; 5,288,548 parameters, 224x224 images.",
            "efficientnet_b1": "EfficientNet-B1; 7,794,184 parameters, 240x240 images.",
            "efficientnet_b2": "EfficientNet-B2; 9,109,994 parameters, 260x260 images.",
            "efficientnet_b3": "EfficientNet-B3; 12,233,232 parameters, 300x300 images.",
            "efficientnet_b4": "EfficientNet-B4; 19,341,616 parameters, 380x380 images.",
            "efficientnet_b5": "EfficientNet-B5; 30,389,784 parameters, 456x456 images.",
            "efficientnet_b6": "EfficientNet-B6; 43,040,704 parameters, 528x528 images.",
            "efficientnet_b7": "EfficientNet-B7; 66,347,960 parameters, 600x600 images.",
            "efficientnet_lite0": "EfficientNet-Lite0, pretrained; 4,652,008 parameters, 224x224 images.",
        },
    ),
    Family(
        "efficientnet_v2",
        "EfficientNetV2: EfficientNet whose first stages are ordinary convolutions, which train faster.",
        {
            "efficientnet_v2_s": "EfficientNetV2-S; 21,458,488 parameters, 384x384 images.",
            "efficientnet_v2_m": "EfficientNetV2-M; 54,139,356 parameters, 480x480 images.",
            "efficientnet_v2_l": "EfficientNetV2-L; 118,515,272 parameters, 480x480 images.",
        },
    ),
    Family(
        "googlenet",
        "GoogLeNet: blocks of convolutions of several sizes side by side, with auxiliary classifiers in training.",
        {
            "googlenet": "GoogLeNet, with its auxiliary heads; 13,004,888 parameters, 224x224 images.",
        },
    ),
    Family(
        "inception_v3",
        "Inception v3: large windows factorised into small and into one-dimensional ones.",
        {
            "inception_v3": "Inception v3, with its auxiliary head; 27,161,264 parameters, 299x299 images.",
        },
    ),
    Family(
        "lenet",
        "LeNet-5, as usually written today and as it was in 1998.",
        {
            "lenet5": "LeNet-5 as usually written: full C3, max pooling, ReLU, a linear output; 61,706 "
            "parameters, 28x28 images.",
            "lenet5_1998": "LeNet-5 as in 1998: connection table, trainable subsampling, RBF output; 60,000 "
            "parameters, 32x32 images.",
        },
    ),
    Family(
        "mobilenet_v1",
        "MobileNet: depthwise separable convolutions all the way.",
        {
            "mobilenet_v1": "MobileNet; 4,231,976 parameters, 224x224 images.",
        },
    ),
    Family(
        "mobilenet_v2",
        "MobileNetV2: inverted residuals with linear bottlenecks.",
        {
            "mobilenet_v2": "MobileNetV2; 3,504,872 parameters, 224x224 images.",
        },
    ),
    Family(
        "mobilenet_v3",
        "MobileNetV3: inverted residuals found by search, with hard-swish and squeeze-and-excitation.",
        {
            "mobilenet_v3_small": "MobileNetV3-Small; 2,542,856 parameters, 224x224 images.",
            "mobilenet_v3_large": "MobileNetV3-Large; 5,483,032 parameters, 224x224 images.",
        },
    ),
    Family(
        "regnet",
        "RegNet: networks whose widths follow from a line, found by narrowing down a space of designs.",
        {
            "regnet_y_400mf": "RegNetY-400MF; 4,344,144 parameters, 224x224 images.",
            "regnet_y_800mf": "RegNetY-800MF; 6,432,512 parameters, 224x224 images.",
            "regnet_y_1_6gf": "RegNetY-1.6GF; 11,202,430 parameters, 224x224 images.",
            "regnet_y_3_2gf": "RegNetY-3.2GF; 19,436,338 parameters, 224x224 images.",
            "regnet_y_8gf": "RegNetY-8GF; 39,381,472 parameters, 224x224 images.",
            "regnet_y_16gf": "RegNetY-16GF; 83,590,140 parameters, 224x224 images.",
            "regnet_y_32gf": "RegNetY-32GF; 145,046,770 parameters, 224x224 images.",
            "regnet_x_400mf": "RegNetX-400MF; 5,495,976 parameters, 224x224 images.",
            "regnet_x_800mf": "RegNetX-800MF; 7,259,656 parameters, 224x224 images.",
            "regnet_x_1_6gf": "RegNetX-1.6GF; 9,190,136 parameters, 224x224 images.",
            "regnet_x_3_2gf": "RegNetX-3.2GF; 15,296,552 parameters, 224x224 images.",
            "regnet_x_8gf": "RegNetX-8GF; 39,572,648 parameters, 224x224 images.",
            "regnet_x_16gf": "RegNetX-16GF; 54,278,536 parameters, 224x224 images.",
            "regnet_x_32gf": "RegNetX-32GF; 107,811,560 parameters, 224x224 images.",
        },
    ),
    Family(
        "resnet",
        "Residual networks, with squeeze-and-excitation too.",
        {
            "resnet18": "ResNet-18; 11,689,512 parameters, 224x224 images.",
            "resnet34": "ResNet-34; 21,797,672 parameters, 224x224 images.",
            "resnet50": "ResNet-50; 25,557,032 parameters, 224x224 images.",
            "resnet101": "ResNet-101; 44,549,160 parameters, 224x224 images.",
            "resnet152": "ResNet-152; 60,192,808 parameters, 224x224 images.",
            "resnet50_v1": "ResNet-50, stride on the first 1x1; 25,557,032 parameters, 224x224 images.",
            "resnet101_v1": "ResNet-101, stride on the first 1x1; 44,549,160 parameters, 224x224 images.",
            "resnet152_v1": "ResNet-152, stride on the first 1x1; 60,192,808 parameters, 224x224 images.",
            "se_resnet18": "ResNet-18 with squeeze-and-excitation; 11,778,592 parameters, 224x224 images.",
            "se_resnet34": "ResNet-34 with squeeze-and-excitation; 21,958,868 parameters, 224x224 images.",
            "se_resnet50": "ResNet-50 with squeeze-and-excitation; 28,088,024 parameters, 224x224 images.",
            "se_resnet101": "ResNet-101 with squeeze-and-excitation; 49,326,872 parameters, 224x224 images.",
            "se_resnet152": "ResNet-152 with squeeze-and-excitation; 66,821,848 parameters, 224x224 images.",
        },
    ),
    Family(
        "resnet_aps",
        "Residual networks whose scores don't change at all when the image is shifted on a circle.",
        {
            "resnet18_aps": "ResNet-18 with adaptive polyphase sampling; 11,689,512 parameters, 224x224 images.",
            "resnet34_aps": "ResNet-34 with adaptive polyphase sampling; 21,797,672 parameters, 224x224 images.",
            "resnet50_aps": "ResNet-50 with adaptive polyphase sampling; 25,557,032 parameters, 224x224 images.",
            "resnet101_aps": "ResNet-101 with adaptive polyphase sampling; 44,549,160 parameters, 224x224 images.",
            "resnet152_aps": "ResNet-152 with adaptive polyphase sampling; 60,192,808 parameters, 224x224 images.",
        },
    ),
    Family(
        "resnet_blur",
        "Residual networks that blur before they subsample, so that a small shift of the image changes little.",
        {
            "resnet18_blur": "ResNet-18 with blur pooling; 11,689,512 parameters, 224x224 images.",
            "resnet34_blur": "ResNet-34 with blur pooling; 21,797,672 parameters, 224x224 images.",
            "resnet50_blur": "ResNet-50 with blur pooling; 25,557,032 parameters, 224x224 images.",
            "resnet101_blur": "ResNet-101 with blur pooling; 44,549,160 parameters, 224x224 images.",
            "resnet152_blur": "ResNet-152 with blur pooling; 60,192,808 parameters, 224x224 images.",
        },
    ),
    Family(
        "shufflenet_v2",
        "ShuffleNetV2: half of the channels pass a block unchanged, and a shuffle mixes the halves.",
        {
            "shufflenet_v2_x0_5": "ShuffleNetV2 x0.5; 1,366,792 parameters, 224x224 images.",
            "shufflenet_v2_x1_0": "ShuffleNetV2 x1.0; 2,278,604 parameters, 224x224 images.",
            "shufflenet_v2_x1_5": "ShuffleNetV2 x1.5; 3,503,624 parameters, 224x224 images.",
            "shufflenet_v2_x2_0": "ShuffleNetV2 x2.0; 7,393,996 parameters, 224x224 images.",
        },
    ),
    Family(
        "simple_cnn",
        "The two-convolution network of the classical MNIST exercise.",
        {
            "simple_cnn": "Two 3x3 convolutions with ReLU and 2x2 max pooling, 32 and 64 channels; 50,186 "
            "parameters, 28x28 images.",
        },
    ),
    Family(
        "squeezenet",
        "SqueezeNet: AlexNet's accuracy with a fiftieth of its parameters, by 1x1 convolutions that squeeze.",
        {
            "squeezenet1_0": "SqueezeNet 1.0; 1,248,424 parameters, 224x224 images.",
            "squeezenet1_1": "SqueezeNet 1.1; 1,235,496 parameters, 224x224 images.",
        },
    ),
    Family(
        "swin",
        "Swin: a transformer with a pyramid of maps, and attention within windows that shift from block to block.",
        {
            "swin_t": "Swin-T; 28,288,354 parameters, 224x224 images.",
            "swin_s": "Swin-S; 49,606,258 parameters, 224x224 images.",
            "swin_b": "Swin-B; 87,768,224 parameters, 224x224 images.",
        },
    ),
    Family(
        "vgg",
        "VGG: small filters in deep stacks, with and without batch normalisation.",
        {
            "vgg11": "VGG-11; 132,863,336 parameters, 224x224 images.",
            "vgg11_bn": "VGG-11 with batch normalisation; 132,868,840 parameters, 224x224 images.",
            "vgg13": "VGG-13; 133,047,848 parameters, 224x224 images.",
            "vgg13_bn": "VGG-13 with batch normalisation; 133,053,736 parameters, 224x224 images.",
            "vgg16": "VGG-16; 138,357,544 parameters, 224x224 images.",
            "vgg16_bn": "VGG-16 with batch normalisation; 138,365,992 parameters, 224x224 images.",
            "vgg19": "VGG-19; 143,667,240 parameters, 224x224 images.",
            "vgg19_bn": "VGG-19 with batch normalisation; 143,678,248 parameters, 224x224 images.",
        },
    ),
    Family(
        "vit",
        "The vision transformer: an image as a sequence of patches, and attention between all of them.",
        {
            "vit_ti_16": "ViT-Ti/16; 5,717,416 parameters, 224x224 images.",
            "vit_s_16": "ViT-S/16; 22,050,664 parameters, 224x224 images.",
            "vit_b_16": "ViT-B/16; 86,567,656 parameters, 224x224 images.",
            "vit_ti_32": "ViT-Ti/32; 6,131,560 parameters, 224x224 images.",
            "vit_s_32": "ViT-S/32; 22,878,952 parameters, 224x224 images.",
            "vit_b_32": "ViT-B/32; 88,224,232 parameters, 224x224 images.",
        },
    ),
    Family(
        "centernet",
        "CenterNet in small: objects as peaks of heat maps, for small pictures and computers without a GPU.",
        {
            "centernet_small": "CenterNet in small, boxes without NMS; 2,404,350 parameters, 128x128 images.",
        },
        task="detection",
    ),
    Family(
        "faster_rcnn",
        "Faster R-CNN on feature pyramids: boxes with classes, from proposals that the same network makes.",
        {
            "fasterrcnn_resnet50_fpn": "Faster R-CNN on ResNet-50; 41,755,286 parameters, 800x1333 images.",
            "fasterrcnn_resnet50_fpn_v2": "Faster R-CNN on ResNet-50, deeper heads; 43,712,278 parameters, "
            "800x1333 images.",
            "fasterrcnn_mobilenet_v3_large_fpn": "Faster R-CNN on MobileNetV3-Large; 19,386,354 parameters, "
            "800x1333 images.",
            "fasterrcnn_mobilenet_v3_large_320_fpn": "Faster R-CNN on MobileNetV3-Large; 19,386,354 "
            "parameters, 320x640 images.",
        },
        task="detection",
    ),
    Family(
        "fcos",
        "FCOS: no anchors. Each position predicts its distances to the four sides of the object that contains it.",
        {
            "fcos_resnet50_fpn": "FCOS on ResNet-50; 32,269,600 parameters, 800x1333 images.",
        },
        task="detection",
    ),
    Family(
        "retinanet",
        "RetinaNet: anchors on all levels of a feature pyramid, and a loss that easy background doesn't dominate.",
        {
            "retinanet_resnet50_fpn": "RetinaNet on ResNet-50; 34,014,999 parameters, 800x1333 images.",
            "retinanet_resnet50_fpn_v2": "RetinaNet on ResNet-50, normalised heads; 38,198,935 parameters, "
            "800x1333 images.",
        },
        task="detection",
    ),
    Family(
        "ssd",
        "SSD: boxes and classes from feature maps of several sizes, in one pass over a picture of fixed size.",
        {
            "ssd300_vgg16": "SSD on VGG-16; 35,641,826 parameters, 300x300 images.",
        },
        task="detection",
    ),
    Family(
        "ssdlite",
        "SSDlite: SSD whose predictors and extra layers are depthwise separable, over MobileNetV3.",
        {
            "ssdlite320_mobilenet_v3_large": "SSDlite on MobileNetV3-Large; 3,440,060 parameters, 320x320 images.",
        },
        task="detection",
    ),
    Family(
        "condinst",
        "CondInst in small: masks by filters that are predicted at each object's place, on CenterNet's trunk.",
        {
            "condinst_small": "CondInst in small, masks without NMS; 2,473,607 parameters, 128x128 images.",
        },
        task="instance",
    ),
    Family(
        "mask_rcnn",
        "Mask R-CNN on feature pyramids: Faster R-CNN that also draws the mask of each object.",
        {
            "maskrcnn_resnet50_fpn": "Mask R-CNN on ResNet-50; 44,401,393 parameters, 800x1333 images.",
            "maskrcnn_resnet50_fpn_v2": "Mask R-CNN on ResNet-50, deeper heads; 46,359,409 parameters, "
            "800x1333 images.",
        },
        task="instance",
    ),
    Family(
        "deeplab",
        "DeepLabv3: the surroundings of a position at several scales, by parallel dilated convolutions.",
        {
            "deeplabv3_resnet50": "DeepLabv3 on ResNet-50, stride 8; 42,004,074 parameters, 520x520 images.",
            "deeplabv3_resnet101": "DeepLabv3 on ResNet-101, stride 8; 60,996,202 parameters, 520x520 images.",
            "deeplabv3_mobilenet_v3_large": "DeepLabv3 on MobileNetV3, stride 16; 11,029,328 parameters, "
            "520x520 images.",
        },
        task="semantic",
    ),
    Family(
        "fcn",
        "Fully convolutional networks: a classifier's maps, scored at every position and grown to the image.",
        {
            "fcn_resnet50": "FCN on ResNet-50, stride 8; 35,322,218 parameters, 520x520 images.",
            "fcn_resnet101": "FCN on ResNet-101, stride 8; 54,314,346 parameters, 520x520 images.",
        },
        task="semantic",
    ),
    Family(
        "lraspp",
        "LR-ASPP: a light head; the mean over the image gates its channels, and fine maps add their scores.",
        {
            "lraspp_mobilenet_v3_large": "LR-ASPP on MobileNetV3, stride 16; 3,221,538 parameters, 520x520 images.",
        },
        task="semantic",
    ),
    Family(
        "unet",
        "U-Net: a path that contracts for what is there, one that expands for where, and shortcuts between.",
        {
            "unet": "U-Net, 16 channels, 4 levels; 1,812,357 parameters, 128x128 images.",
        },
        task="semantic",
    ),
)

#: The file of each network, as ``striate.models`` has it.
MODULES: Final = {name: family.module for family in FAMILIES for name in family.networks}
