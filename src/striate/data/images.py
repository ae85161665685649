"""Images as tensors: sets that fit in memory, one size and one channel count for all, and image files decoded.

Everything stays uint8 until a batch is made, in a quarter of the memory that floats would take. What a picture does not
cover is zero: the frame around a small one, and what shows through a transparent one. So "nothing there" is one value
everywhere, that of the background in MNIST and its relatives.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from striate.errors import DataError

if TYPE_CHECKING:
    from striate.data.streamed import StreamedSet

# And nothing else: Pillow knows formats that start other programs (EPS) and such that hold many pictures (GIF, TIFF).
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

# What Pillow raises for broken files: all that 100,000 files with flipped bytes brought forth.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

# What sets an image upright, by its EXIF orientation (TIFF 6.0, tag 274). Pillow's exif_transpose also writes the other
# tags anew, and so refuses pictures for damage in a camera's notes.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_GREY = ("1", "L", "LA")

# Warning filters belong to the whole process, so that only one file at a time may be opened under a changed one.
_OPENING = threading.Lock()

# Pixels held as numbers wider than a byte at any one time.
_CHUNK = 1 << 22


#: What holds one encoded image: the path of a file, or an open one.
Encoded = str | Path | BinaryIO


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Labelled images of one size in memory.

    Args:
        images: uint8 (N, C, H, W), contiguous.
        labels: int64 (N,), each the index of a class.
        classes: the names of the classes.

    Raises:
        DataError: parts that don't fit together.

    >>> ImageSet(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([1, 0]), ("cat", "dog"))
    ImageSet(2 images of 1x8x8, 2 classes)
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        images, labels, classes = self.images, self.labels, self.classes
        if images.dtype != torch.uint8 or images.ndim != 4 or 0 in images.shape:
            raise DataError("ImageSet", f"got images of {_kind(images)}", "needed uint8 (N, C, H, W), no size 0")
        if not images.is_contiguous():
            raise DataError("ImageSet", "got images that aren't contiguous", remedy="pass images.contiguous()")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise DataError(
                "ImageSet", f"got labels of {_kind(labels)}", f"needed int64 ({len(images)},), one for each image"
            )
        if len(set(classes)) != len(classes):
            raise DataError("ImageSet", f"got classes {classes}", "needed names that differ")
        outside = ((labels < 0) | (labels >= len(classes))).nonzero()
        if len(outside):
            index = int(outside[0])
            raise DataError(
                "ImageSet", f"got label {int(labels[index])} at index {index}", f"needed 0 to {len(classes) - 1}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.images.shape[1:]))
        return f"ImageSet({len(self)} images of {shape}, {len(self.classes)} classes)"

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        return self.images.shape[2], self.images.shape[3]

    def gather(self, indices: torch.Tensor) -> torch.Tensor:
        """The images at ``indices``, int64 (B,), as uint8 (B, C, H, W)."""
        # index_select: indexing by brackets is several times slower for bytes.
        return self.images.index_select(0, indices)

    def subset(self, indices: Sequence[int] | NDArray[np.integer[Any]] | torch.Tensor) -> ImageSet:
        """The images at ``indices``, in their order (a copy).

        Raises:
            DataError: no indices, or one that is no integer from 0 to N-1.
        """
        chosen = checked_indices(indices, len(self))
        return ImageSet(self.images[chosen], self.labels[chosen], self.classes)


@dataclass(frozen=True)
class Split:
    """What to learn from and what to be tested on: two sets of the same classes, channels and image size.

    Args:
        train: the images to learn from.
        test: images that training never sees.
        source: where they come from, in the words of :func:`striate.data.load`.

    Raises:
        DataError: sets that differ in more than their images.
    """

    train: ImageSet | StreamedSet
    test: ImageSet | StreamedSet
    source: str

    def __post_init__(self) -> None:
        for what in ("classes", "channels", "image_size"):
            train, test = getattr(self.train, what), getattr(self.test, what)
            if train != test:
                raise DataError(self.source, f"{what.replace('_', ' ')} {train} in train, {test} in test")


def fit_image(images: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """``images`` brought to ``image_size``: uint8 (..., C, H, W) to uint8 (..., C, \\*image_size).

    An image that is larger on any axis is resized to the target, each axis by its own factor (bilinear, antialiased).
    A smaller one is enlarged (bilinear) by the largest whole factor that fits, and framed with zeros, an odd row or
    column of them at the bottom or right: 28 -> 32 is a frame of 2, as in LeCun et al. 1998 (section II.B); 8 -> 28 is
    three times the size and a frame of 2. One that fits is returned as it is. Memory beyond the result is bounded.

    Raises:
        DataError: images or a size of another form.

    >>> fit_image(torch.full((1, 8, 8), 9, dtype=torch.uint8), (10, 11))[0, 1]
    tensor([0, 9, 9, 9, 9, 9, 9, 9, 9, 0, 0], dtype=torch.uint8)
    """
    _check_images("fit_image", images)
    if len(image_size) != 2 or not all(isinstance(length, int) and length > 0 for length in image_size):
        raise DataError("fit_image", f"got image size {image_size}", "needed (height, width), both positive integers")
    given, target = tuple(images.shape[-2:]), tuple(image_size)
    if given == target:
        return images
    if given[0] > target[0] or given[1] > target[1]:
        inner = target
    else:
        factor = min(target[0] // given[0], target[1] // given[1])
        inner = (given[0] * factor, given[1] * factor)
    top, left = (target[0] - inner[0]) // 2, (target[1] - inner[1]) // 2
    fitted = images.new_zeros(*images.shape[:-2], *target)
    inside = fitted.view(-1, 1, *target)[..., top : top + inner[0], left : left + inner[1]]
    planes = images.reshape(-1, 1, *given)
    if inner == given:
        inside.copy_(planes)
        return fitted
    for part in _parts(len(planes), max(given[0] * given[1], inner[0] * inner[1])):
        # antialias widens the filter only where an axis shrinks. uint8 has a path of its own, which rounds twice.
        resized = F.interpolate(planes[part].float(), inner, mode="bilinear", antialias=True)
        inside[part] = resized.round_().to(torch.uint8)
    return fitted


def as_channels(images: torch.Tensor, channels: int) -> torch.Tensor:
    """``images`` with 1 (grey) or 3 (red, green, blue) channels: uint8 (..., C, H, W) to uint8 (..., channels, H, W).

    Grey becomes colour by repetition. Colour becomes grey by the luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, in
    the 16-bit fixed point of Pillow's ``convert("L")``, whose results these are exactly.

    Raises:
        DataError: other channel counts, on either side.

    >>> as_channels(torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1), 1).item()
    76
    """
    _check_images("as_channels", images)
    given = images.shape[-3]
    if given == channels:
        return images
    if {given, channels} != {1, 3}:
        raise DataError("as_channels", f"got images of {given} channels to be {channels}", "needed 1 and 3")
    if channels == 3:
        return images.expand(*images.shape[:-3], 3, *images.shape[-2:]).contiguous()
    grey = images.new_empty(*images.shape[:-3], 1, *images.shape[-2:])
    planes, pixels = grey.view(-1, *grey.shape[-2:]), images.reshape(-1, *images.shape[-3:])
    for part in _parts(len(planes), planes.shape[-2] * planes.shape[-1]):
        red, green, blue = pixels[part].to(torch.int32).unbind(1)
        planes[part] = ((19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16).to(torch.uint8)
    return grey


def load_image(
    path: Encoded, *, channels: int | None = None, image_size: tuple[int, int] | None = None
) -> torch.Tensor:
    """The picture in a PNG, JPEG, BMP or WebP file as uint8 (C, H, W), upright as its EXIF orientation says.

    Transparent pixels are laid over black, 16-bit grey is rounded to 8 bits, palettes and CMYK become RGB.

    Args:
        path: the file, or an open one of bytes.
        channels: 1 or 3, by :func:`as_channels`; None: 1 for a file that stores grey, else 3.
        image_size: (height, width), by :func:`fit_image`; None: the picture's own.

    Raises:
        DataError: a file that is missing, broken, of another kind, or so large when decoded that it may be an attack
            (``PIL.Image.MAX_IMAGE_PIXELS``).
    """
    try:
        with _open(path) as image:
            turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
            pixels = _pixels(image if turn is None else image.transpose(turn))
    except _BROKEN as error:
        raise _unreadable(path, error) from error
    picture = torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))
    if channels is not None:
        picture = as_channels(picture, channels)
    return picture if image_size is None else fit_image(picture, image_size)


def stores_grey(path: Encoded) -> bool:
    """Whether an image file stores grey; only its header is read.

    Raises:
        DataError: as :func:`load_image`, for what the header tells.
    """
    try:
        with _open(path) as image:
            return image.mode.startswith("I") or image.mode in _GREY
    except _BROKEN as error:
        raise _unreadable(path, error) from error


def _open(path: Encoded) -> Image.Image:
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(path, formats=FORMATS)


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, C) with C = 1 for grey modes, 3 for all others."""
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion would clip at 255
        return ((np.asarray(image).astype(np.int64) + 128) // 257).astype(np.uint8)[..., None]
    grey = image.mode in _GREY
    if image.has_transparency_data:
        layers = np.asarray(image.convert("LA" if grey else "RGBA")).astype(np.uint16)
        return ((layers[..., :-1] * layers[..., -1:] + 127) // 255).astype(np.uint8)
    return np.asarray(image.convert("L" if grey else "RGB")).reshape(image.height, image.width, -1)


def _unreadable(path: Encoded, error: Exception) -> DataError:
    """The one line for a file that gave no picture: what the system says of it, or else what Pillow does."""
    where = str(getattr(path, "name", "image bytes")) if not isinstance(path, str | Path) else str(path)
    if isinstance(error, UnidentifiedImageError):
        return DataError(where, "holds no image that can be read", f"needed {', '.join(FORMATS)}")
    if isinstance(error, OSError) and error.strerror:
        return DataError(where, error.strerror, "needed an image file")
    return DataError(where, f"can't be decoded: {error}")


def checked_indices(indices: Sequence[int] | NDArray[np.integer[Any]] | torch.Tensor, count: int) -> torch.Tensor:
    """Indices of images out of ``count`` as int64 (B,).

    Raises:
        DataError: no indices, or one that is no integer from 0 to ``count`` - 1.
    """
    chosen = torch.as_tensor(indices)
    if chosen.dtype.is_floating_point or chosen.dtype == torch.bool or chosen.ndim != 1 or not len(chosen):
        raise DataError("subset", f"got indices of {_kind(chosen)}", "needed a list of integers, at least one")
    chosen = chosen.to(torch.int64)
    if chosen.min() < 0 or chosen.max() >= count:
        raise DataError(
            "subset", f"got indices from {int(chosen.min())} to {int(chosen.max())}", f"needed 0 to {count - 1}"
        )
    return chosen


def _check_images(where: str, images: torch.Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim < 3 or 0 in images.shape[-3:]:
        raise DataError(where, f"got images of {_kind(images)}", "needed uint8 (..., C, H, W), no size 0")


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _parts(count: int, pixels: int) -> Iterator[slice]:
    """Slices that cover ``count`` items of ``pixels`` each, a chunk at a time."""
    step = max(1, _CHUNK // pixels)
    return (slice(start, start + step) for start in range(0, count, step))
