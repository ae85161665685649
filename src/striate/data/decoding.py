"""Image files decoded: upright, 8 bits a channel, grey or colour, fitted on the way.

Transparent pixels become zero, as do the pixels of an added frame.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError, features

from striate.data.fitting import Crop, Fit, as_channels
from striate.errors import DataError, readable

#: Suffixes of image files by Pillow's name of their format. Formats that start other programs (EPS) or open other files
#: are left out. If a file contains several pictures (GIF, TIFF, MPO), the first is used.
FORMATS: Final = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif"),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    **({"AVIF": (".avif",)} if features.check("avif") else {}),
}
#: Formats that need another package, and the package.
_HEIC: Final = (".heic", ".heif")
_HEIC_PACKAGE: Final = "pillow_heif"

SUFFIXES: Final = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)

#: A file that claims more pixels than this is treated as an attack on memory, unless more are allowed. Pillow's own
#: limit is the same: at 3 bytes a pixel, half a gigabyte.
MAX_PIXELS: Final = 178_956_970

# Exceptions that Pillow raises for broken files: all that 60,000 files with flipped bytes caused.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    RuntimeError,  # what the decoder of AVIF raises
    Image.DecompressionBombError,
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
_ON_ITS_SIDE = (5, 6, 7, 8)

_GREY = ("1", "L", "LA", "La")

# Pillow's own limit of pixels is a global of its module, so that only one file at a time may be opened without it.
_OPENING = threading.Lock()

#: A JPEG is decoded at a reduced scale if the result is at least this many times the size that it is fitted to.
_SPARE: Final = 2

#: What holds one picture: the path of a file, an open one, whose ``str`` is what messages call it, or its pixels,
#: uint8 (C, H, W).
Encoded = str | Path | BinaryIO | torch.Tensor


@dataclass(frozen=True)
class Reading:
    """How encoded pictures are read.

    Args:
        fit: fits pictures to one size; None keeps their own sizes.
        channels: 1 or 3, by :func:`as_channels`; None: 1 for a file that stores grey, else 3.
        max_pixels: a file with more is refused.
    """

    fit: Fit | None = None
    channels: int | None = None
    max_pixels: int = MAX_PIXELS

    def __call__(self, encoded: Encoded, crop: Crop | None = None) -> torch.Tensor:
        """The picture as uint8 (C, H, W); with ``crop`` that part of it, scaled to the size of ``fit``.

        Raises:
            DataError: as :func:`load_image`.
        """
        picture = encoded if isinstance(encoded, torch.Tensor) else self._decoded(encoded, crop)
        if self.channels is not None:
            picture = as_channels(picture, self.channels)
        return picture if self.fit is None else self.fit(picture, crop)

    def _decoded(self, encoded: str | Path | BinaryIO, crop: Crop | None) -> torch.Tensor:
        try:
            with _open(encoded, self.max_pixels) as image:
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
                if self.fit is not None:
                    _draft(image, self.fit, crop, on_its_side=orientation in _ON_ITS_SIDE)
                turn = _UPRIGHT.get(orientation)
                pixels = _pixels(image if turn is None else image.transpose(turn))
        except DataError:
            raise
        except _BROKEN as error:
            raise _unreadable(encoded, error) from error
        return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))


def load_image(
    path: Encoded,
    *,
    channels: int | None = None,
    image_size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> torch.Tensor:
    """The picture in an image file as uint8 (C, H, W), upright as its EXIF orientation says.

    PNG, JPEG, BMP, WebP, GIF (the first picture), TIFF (the first), PPM; AVIF where Pillow has it, HEIC with the
    package pillow-heif. Transparent pixels are laid over black, 16-bit grey is rounded to 8 bits, palettes and CMYK
    become RGB. A JPEG that is far larger than ``image_size`` is decoded at a reduced scale, which takes less time and
    memory.

    Args:
        path: the file, or an open one of bytes.
        channels: 1 or 3, by :func:`as_channels`; None: 1 for a file that stores grey, else 3.
        image_size: (height, width), by :func:`fit_image`; None: the picture's own.
        max_pixels: a file that claims more is refused, since it may be an attack.

    Raises:
        DataError: a file that is missing, broken, of another kind, or has too many pixels.
    """
    return Reading(None if image_size is None else Fit(image_size), channels, max_pixels)(path)


@dataclass(frozen=True)
class Header:
    """The information in a picture's header.

    Args:
        size: (H, W) as it is stored, before it is set upright.
        orientation: of EXIF, 1 to 8.
        grey: whether it stores grey.
    """

    size: tuple[int, int]
    orientation: int
    grey: bool


def header(path: Encoded, max_pixels: int = MAX_PIXELS) -> Header:
    """The header of an image file; for pixels without a file, the equivalent information.

    Raises:
        DataError: as :func:`load_image`, for what the header tells.
    """
    if isinstance(path, torch.Tensor):
        return Header((path.shape[1], path.shape[2]), 1, len(path) == 1)
    try:
        with _open(path, max_pixels) as image:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            grey = image.mode.startswith("I") or image.mode in _GREY
            return Header((image.height, image.width), orientation if orientation in _UPRIGHT else 1, grey)
    except _BROKEN as error:
        raise _unreadable(path, error) from error


def stores_grey(path: Encoded, max_pixels: int = MAX_PIXELS) -> bool:
    """Whether an image file stores grey; only its header is read.

    Raises:
        DataError: as :func:`header`.
    """
    return header(path, max_pixels).grey


def indices(path: Path) -> NDArray[np.uint8]:
    """The numbers in an image of class or object indices, uint8 (H, W): those of a palette, or grey values.

    Raises:
        DataError: a file that is missing or broken, of a format that changes values, in colour, with values over 255.
    """
    try:
        with _open(path, MAX_PIXELS) as image:
            if image.format in ("JPEG", "WEBP", "AVIF"):
                raise DataError(readable(path), f"is a {image.format}, which changes values", "needed a PNG of indices")
            if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
                raise DataError(
                    readable(path),
                    f"is in colour ({image.mode})",
                    "needed one number a pixel: a palette, or grey values",
                )
            values = np.asarray(image)
    except _BROKEN as error:
        raise _unreadable(path, error) from error
    if values.dtype != np.uint8 and values.size and (values.min() < 0 or values.max() > 255):
        raise DataError(readable(path), f"has the value {values.max()}", "needed 0 to 255")
    return values.astype(np.uint8)


def is_image(path: Path) -> str | None:
    """None if the suffix of a file is one of an image that can be read, else the reason why it can't.

    >>> is_image(Path("a.JPG")), is_image(Path("notes.txt"))
    (None, 'no image file (.txt)')
    """
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return None
    if suffix in _HEIC:
        return None if _heif() else "HEIC needs the package pillow-heif: pip install 'striate[heic]'"
    return f"no image file ({suffix})" if suffix else "no image file (a name without a suffix)"


def reduced(reading: Reading, shorter: int) -> Callable[[Encoded], torch.Tensor]:
    """A reading that keeps the proportions of pictures, with a shorter side of at most ``shorter`` pixels."""

    def read(encoded: Encoded) -> torch.Tensor:
        covering = replace(reading, fit=_Covering((shorter, shorter), "crop"))
        return covering(encoded)

    return read


class _Covering(Fit):
    """A fit that keeps the whole picture."""

    def __call__(self, images: torch.Tensor, crop: Crop | None = None) -> torch.Tensor:
        height, width = images.shape[-2:]
        return (
            images
            if min(height, width) <= min(self.image_size)
            else self._resized(images, self.covering(height, width))
        )


@functools.cache
def _heif() -> bool:
    """Whether HEIC can be read; registers Pillow's plugin for it."""
    try:
        importlib.import_module(_HEIC_PACKAGE).register_heif_opener()
    except ImportError:
        return False
    return True


def _open(path: str | Path | BinaryIO, max_pixels: int) -> Image.Image:
    if isinstance(path, str | Path) and Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir():
        raise DataError(readable(path), "is no regular file", "needed an image file")  # a pipe would be waited for
    formats = list(FORMATS)
    if str(path).lower().endswith(_HEIC) and _heif():
        formats.append("HEIF")
    with _OPENING:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(path, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = before
    pixels = image.width * image.height
    if pixels > max_pixels:
        image.close()
        raise DataError(
            readable(path),
            f"has {pixels:,} pixels ({image.width}x{image.height})",
            f"needed {max_pixels:,} or fewer, since more may be an attack on memory",
            f"if the file is to be trusted, allow more: max_pixels, or --max-pixels {pixels}",
        )
    return image


def _draft(image: Image.Image, fit: Fit, crop: Crop | None, *, on_its_side: bool) -> None:
    """Makes Pillow decode a JPEG at 1/2, 1/4 or 1/8 of its size, if this is still larger than needed."""
    height, width = (image.width, image.height) if on_its_side else (image.height, image.width)
    rows, columns = (_SPARE * side for side in fit.needed(height, width, crop))
    if rows < height and columns < width:
        image.draft(None, (rows, columns) if on_its_side else (columns, rows))


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, C) with C = 1 for grey modes, 3 for all others."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, and the file doesn't say which value is white")
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion would clip at 255
        return ((np.asarray(image).astype(np.int64) + 128) // 257).clip(0, 255).astype(np.uint8)[..., None]
    grey = image.mode in _GREY
    if image.has_transparency_data:
        layers = np.asarray(image.convert("LA" if grey else "RGBA")).astype(np.uint16)
        return ((layers[..., :-1] * layers[..., -1:] + 127) // 255).astype(np.uint8)
    return np.asarray(image.convert("L" if grey else "RGB")).reshape(image.height, image.width, -1)


def _unreadable(path: Encoded, error: Exception) -> DataError:
    """The one-line error for a file that can't be read, with the system's reason or else Pillow's."""
    where = readable(path)
    if isinstance(error, DataError):
        return error
    if isinstance(error, UnidentifiedImageError):
        return DataError(where, "holds no image that can be read", f"needed {', '.join(FORMATS)}")
    if isinstance(error, OSError) and error.strerror:
        return DataError(where, error.strerror, "needed an image file")
    return DataError(where, f"can't be decoded: {error}")
