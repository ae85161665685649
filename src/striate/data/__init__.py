"""Labelled images: where they come from, how they are decoded and fitted, and how they become batches.

>>> digits = load("digits", image_size=(32, 32))
>>> digits.train
ImageSet(1438 images of 1x32x32, 10 classes)
>>> batches = Batches(digits.train, 64, Normalization.of(digits.train), shuffle_seed=0)
>>> images, labels = next(batches.epoch(0))
>>> images.shape, labels.shape
(torch.Size([64, 1, 32, 32]), torch.Size([64]))
"""

from striate.data.annotated import AnnotatedSet
from striate.data.annotated_augmentation import CHANGES, AnnotatedAugmentation
from striate.data.annotated_batches import AnnotatedBatches
from striate.data.annotation import IGNORED, Annotation, Detections
from striate.data.augmentation import STYLES, Augmentation
from striate.data.batches import Batches, Normalization
from striate.data.decoding import MAX_PIXELS, load_image
from striate.data.fitting import Fit, as_channels, fit_image
from striate.data.folder import image_files
from striate.data.idx import read_idx
from striate.data.images import Identity, ImageSet, Split
from striate.data.moving import Placement, fit_annotated, place
from striate.data.preprocessing import Preprocessing
from striate.data.sources import SOURCES, Source, load, split
from striate.data.streamed import LabelledImages, StreamedSet

__all__ = [
    "CHANGES",
    "IGNORED",
    "MAX_PIXELS",
    "SOURCES",
    "STYLES",
    "AnnotatedAugmentation",
    "AnnotatedBatches",
    "AnnotatedSet",
    "Annotation",
    "Augmentation",
    "Batches",
    "Detections",
    "Fit",
    "Identity",
    "ImageSet",
    "LabelledImages",
    "Normalization",
    "Placement",
    "Preprocessing",
    "Source",
    "Split",
    "StreamedSet",
    "as_channels",
    "fit_annotated",
    "fit_image",
    "image_files",
    "load",
    "load_image",
    "place",
    "read_idx",
    "split",
]
