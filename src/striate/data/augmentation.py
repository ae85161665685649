"""Augmentation of labelled images: random changes that preserve the class, for whole batches.

The random numbers for an image depend only on the seed, the epoch, the step and the image's place in the batch. So a
resumed run needs no stored state, and each of several processes can compute its own part of a batch.

The transforms are striate's own, so that a part of a batch can be computed alone, each image has operations of its own
in RandAugment, and all geometry is one interpolation. kornia draws for a whole batch from the global generator, and its
affine and elastic transforms one after the other took about twice as long as ``digits``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from striate.data import transforms
from striate.data.fitting import CROP_AREA, CROP_RATIO, Crop
from striate.errors import DataError


@dataclass(frozen=True)
class Draws:
    """Random numbers for the images at some positions of a batch; they don't depend on which positions are requested.

    Args:
        generator: on the CPU.
        batch: images in the whole batch.
        positions: int64, the requested positions.
        device: where the numbers go.
    """

    generator: torch.Generator
    batch: int
    positions: Tensor
    device: torch.device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Float32 (positions, \\*shape)."""
        drawn = torch.rand(self.batch, *shape, generator=self.generator)[self.positions]
        return drawn.mul_(high - low).add_(low).to(self.device)

    def whole(self, low: int, high: int, *shape: int) -> Tensor:
        """Whole numbers, int64 (positions, \\*shape), from ``low`` to ``high``, both included."""
        drawn = torch.randint(low, high + 1, (self.batch, *shape), generator=self.generator)
        return drawn[self.positions].to(self.device)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the images of a batch, in the order of the arguments.

    Args:
        style: one of :data:`STYLES`.
        erase: probability with which a rectangle of 2 % to 33 % of an image turns black (Zhong, Zheng, Kang, Li & Yang,
            "Random erasing data augmentation", 2020, algorithm 1; there it is filled with noise).
        mixup: the images of a batch become means of two with weights q and 1 - q, q drawn from Beta(mixup, mixup), and
            so do their labels (Zhang, Cisse, Dauphin & Lopez-Paz, "mixup: beyond empirical risk minimization", 2018,
            equation 1); 0 for none.
        cutmix: a rectangle of the share 1 - q of each image is another's, and labels are mixed by area (Yun, Han, Oh,
            Chun, Choe & Yoo, "CutMix: regularization strategy to train strong classifiers with localizable features",
            2019, equations 1 and 2); 0 for none. With mixup too, one of the two is drawn for each batch.
        seed: of all random numbers.

    Raises:
        DataError: an unknown style, a number out of range.

    >>> images, labels = torch.zeros(4, 1, 28, 28, dtype=torch.uint8), torch.tensor([0, 1, 2, 0])
    >>> augmented, targets = Augmentation("flip-crop", mixup=1.0)(images, labels, 3, epoch=0, step=0)
    >>> augmented.shape, augmented.dtype, targets.shape
    (torch.Size([4, 1, 28, 28]), torch.float32, torch.Size([4, 3]))
    """

    style: str = "none"
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise DataError("augmentation", f"got {self.style!r}", "needed one of " + ", ".join(STYLES))
        if not 0 <= self.erase <= 1 or min(self.mixup, self.cutmix) < 0:
            got = f"got erase {self.erase}, mixup {self.mixup}, cutmix {self.cutmix}"
            raise DataError("augmentation", got, "needed erase from 0 to 1, the others from 0")

    @property
    def mixes(self) -> bool:
        """Whether labels become probabilities."""
        return self.mixup > 0 or self.cutmix > 0

    def sources(self, batch: int, wanted: Tensor, epoch: int, step: int) -> Tensor:
        """Positions, int64 and sorted, of the images that those at ``wanted`` in a batch of ``batch`` are made of."""
        if not self.mixes:
            return wanted
        both: Tensor = torch.cat([wanted, self._partners(batch, epoch, step)[wanted]]).unique()
        return both

    @property
    def crops(self) -> bool:
        """Whether images have to be cropped before they are passed to this, to the parts that :meth:`parts` draws."""
        return STYLES[self.style].crops

    def parts(self, batch: int, wanted: Tensor, epoch: int, step: int) -> list[Crop]:
        """The random crops of the images at ``wanted``, int64 (S,), of a batch of ``batch``.

        The share of the area and the place are uniformly distributed, as is the logarithm of the aspect ratio.
        """
        drawn = self._random(epoch, step, 3).uniform(size=(batch, 4))[wanted.numpy()]
        low, high = map(math.log, CROP_RATIO)
        return [
            Crop(CROP_AREA[0] + area * (CROP_AREA[1] - CROP_AREA[0]), math.exp(low + ratio * (high - low)), top, left)
            for area, ratio, top, left in drawn.tolist()
        ]

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        classes: int,
        *,
        epoch: int,
        step: int,
        batch: int | None = None,
        wanted: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """A batch, or the part of it that is wanted, as step ``step`` of epoch ``epoch`` sees it.

        Args:
            images: uint8 (S, C, H, W), those at the positions that :meth:`sources` names.
            labels: int64 (S,).
            classes: how many there are, K.
            epoch: from 0.
            step: of the epoch, from 0.
            batch: images in the whole batch; None for S.
            wanted: positions in the batch, int64 (B,); None for all.

        Returns:
            Float32 images (B, C, H, W) with values from 0 to 255; and their labels, or if images are mixed the
            probability of each class, float32 (B, K).
        """
        batch = len(images) if batch is None else batch
        wanted = torch.arange(batch) if wanted is None else wanted
        sources = self.sources(batch, wanted, epoch, step)
        generator = torch.Generator().manual_seed(int(self._random(epoch, step, 0).integers(2**63)))
        draws = Draws(generator, batch, sources, images.device)
        changed = images.to(torch.float32).div_(255)
        if len(changed):  # a part may be empty, which samplers don't take
            changed = STYLES[self.style].transform(changed, draws)
        if self.erase:
            changed = _erased(changed, self.erase, draws)
        changed = changed.clamp(0, 1).mul_(255)
        if not self.mixes:
            return changed, labels
        # Where among the sources the wanted ones are, and their partners.
        first = torch.searchsorted(sources, wanted)
        second = torch.searchsorted(sources, self._partners(batch, epoch, step)[wanted])
        known = F.one_hot(labels, classes).to(torch.float32)
        mixed, share = self._mixed(changed[first], changed[second], self._random(epoch, step, 2))
        return mixed, torch.lerp(known[second], known[first], share)

    def _mixed(self, images: Tensor, others: Tensor, random: np.random.Generator) -> tuple[Tensor, float]:
        """The mixed images, and the share that ``images`` have of them."""
        cuts = self.cutmix > 0 and (self.mixup == 0 or random.random() < 0.5)
        strength = self.cutmix if cuts else self.mixup
        share = float(random.beta(strength, strength))
        if not cuts:
            return torch.lerp(others, images, share), share
        sides: list[slice] = []
        for length in images.shape[-2:]:
            # The centre is anywhere, so part of the rectangle may lie outside.
            centre, half = random.integers(length), length * math.sqrt(1 - share) / 2
            sides.append(slice(max(0, round(centre - half)), min(length, round(centre + half))))
        rows, columns = sides
        cut = images.clone()
        cut[..., rows, columns] = others[..., rows, columns]
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        return cut, 1 - area / (images.shape[-2] * images.shape[-1])

    def _partners(self, batch: int, epoch: int, step: int) -> Tensor:
        """For each position of a batch the one that it is mixed with."""
        return torch.from_numpy(self._random(epoch, step, 1).permutation(batch))

    def _random(self, epoch: int, step: int, stream: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch, step, stream)))


def _erased(images: Tensor, probability: float, draws: Draws) -> Tensor:
    height, width = images.shape[-2:]
    hit = draws.uniform(0, 1) < probability
    area = draws.uniform(0.02, 0.33) * height * width
    ratio = draws.uniform(math.log(0.3), math.log(1 / 0.3)).exp()
    spans = []
    for length, side in ((height, (area * ratio).sqrt()), (width, (area / ratio).sqrt())):
        side = side.round().clamp(1, length).unsqueeze(1)
        start = (draws.uniform(0, 1, 1) * (length + 1 - side)).floor()
        places = torch.arange(length, device=images.device)
        spans.append((places >= start) & (places < start + side))
    gone = hit.view(-1, 1, 1) & spans[0].unsqueeze(2) & spans[1].unsqueeze(1)
    return images.masked_fill(gone.unsqueeze(1), 0)


def _none(images: Tensor, draws: Draws) -> Tensor:
    return images


def _digits(images: Tensor, draws: Draws) -> Tensor:
    """The distortions of handwriting.

    Shifts, scalings, squeezings and shears are LeCun's, Bottou's, Bengio's and Haffner's (1998, section III-A); then
    small turns, and elastic displacement (Simard, Steinkraus & Platt, "Best practices for convolutional neural networks
    applied to visual document analysis", 2003, section 2), here of noise on a coarse grid, interpolated, rather than
    filtered.
    """
    scale, squeeze = draws.uniform(0.88, 1.12), draws.uniform(0.93, 1.07)
    matrix = transforms.affine(
        degrees=draws.uniform(-8, 8),
        scale_x=scale * squeeze,
        scale_y=scale / squeeze,
        shear_x=draws.uniform(-0.15, 0.15),
        translate_x=draws.uniform(-0.07, 0.07),
        translate_y=draws.uniform(-0.07, 0.07),
    )
    height, width = images.shape[-2:]
    reach = 0.055 * min(height, width)  # at the grid's points, in pixels: 1.5 of 28
    displacement = F.interpolate(
        draws.uniform(-reach, reach, 2, 5, 5), (height, width), mode="bicubic", align_corners=True
    )
    return transforms.warp(images, matrix, displacement)


def _flip_crop(images: Tensor, draws: Draws) -> Tensor:
    """A frame of an eighth, a crop of the old size anywhere in it, mirrored every second time (He, Zhang, Ren & Sun,
    "Deep residual learning for image recognition", 2016, section 4.2)."""
    height, width = images.shape[-2:]
    matrix = transforms.affine(
        flip=draws.uniform(0, 1) < 0.5,
        translate_x=draws.whole(-(width // 8), width // 8) / width,
        translate_y=draws.whole(-(height // 8), height // 8) / height,
    )
    return transforms.warp(images, matrix)


def _flip(images: Tensor, draws: Draws) -> Tensor:
    """Mirrored every second time."""
    return torch.where((draws.uniform(0, 1) < 0.5).view(-1, 1, 1, 1), images.flip(3), images)


def _photo(images: Tensor, draws: Draws) -> Tensor:
    """Viewpoint by an affine map and a mirror, light by brightness, contrast, saturation and hue."""
    scale = draws.uniform(math.log(0.8), math.log(1.25)).exp()
    matrix = transforms.affine(
        degrees=draws.uniform(-10, 10),
        scale_x=scale,
        scale_y=scale,
        translate_x=draws.uniform(-0.1, 0.1),
        translate_y=draws.uniform(-0.1, 0.1),
        flip=draws.uniform(0, 1) < 0.5,
    )
    images = transforms.warp(images, matrix)
    images = transforms.brightness(images, draws.uniform(0.7, 1.3))
    images = transforms.contrast(images, draws.uniform(0.7, 1.3))
    images = transforms.saturation(images, draws.uniform(0.6, 1.4))
    return transforms.hue(images, draws.uniform(-15, 15))


def _randaugment(images: Tensor, draws: Draws) -> Tensor:
    """A crop and a mirror, then two of RandAugment's fourteen operations with strength 9 of 10 at most, each image its
    own (Cubuk, Zoph, Shlens & Le, 2020)."""
    images = _flip_crop(images, draws)
    for _ in range(2):
        chosen = draws.whole(0, len(transforms.RANDAUGMENT) - 1)
        strength = draws.uniform(-0.9, 0.9)
        for number, operation in enumerate(transforms.RANDAUGMENT):
            if len(which := (chosen == number).nonzero().squeeze(1)):
                images[which] = operation(images[which], strength[which]).clamp_(0, 1)
    return images


@dataclass(frozen=True)
class Style:
    """A named set of transforms of float32 images from 0 to 1."""

    description: str
    transform: Callable[[Tensor, Draws], Tensor]
    #: Whether the images are random parts of pictures, each scaled to the whole size.
    crops: bool = False


STYLES: Final = {
    "none": Style("images as they are", _none),
    "digits": Style("shifts, scalings, squeezings, shears, small turns, elastic displacement", _digits),
    "resized-crop": Style("random parts of a picture at the whole size, and mirrors", _flip, crops=True),
    "flip-crop": Style("mirrors, and shifts by up to an eighth", _flip_crop),
    "photo": Style("mirrors, turns, scalings, shifts, and changes of light and colour", _photo),
    "randaugment": Style("flip-crop, then two of fourteen operations", _randaugment),
}
