from __future__ import annotations

import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from striate.data import Fit, decoding, fit_image, load_image
from striate.data.decoding import Reading, is_image
from striate.data.fitting import Crop
from striate.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray | Image.Image, **options: object) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def first(tensor: torch.Tensor) -> np.ndarray:
    return tensor.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp", "a.tif", "a.ppm", "upper.PNG"])
def test_pixels_are_those_of_the_file(name: str, tmp_path: Path) -> None:
    picture = load_image(save(tmp_path / name, RGB, lossless=True))  # WebP's option; the others know no other way
    assert picture.dtype == torch.uint8
    assert picture.is_contiguous()
    assert np.array_equal(first(picture), RGB)


def test_jpeg_is_close(tmp_path: Path) -> None:
    smooth = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    assert np.abs(first(load_image(save(tmp_path / "a.jpg", smooth))).astype(int) - smooth).max() <= 3


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
def test_grey_files_have_one_channel(name: str, tmp_path: Path) -> None:
    path = save(tmp_path / name, np.full((4, 6), 77, np.uint8))
    assert torch.equal(load_image(path), torch.full((1, 4, 6), 77, dtype=torch.uint8))
    assert torch.equal(load_image(path, channels=3), torch.full((3, 4, 6), 77, dtype=torch.uint8))


def test_black_and_white(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(RGB[..., 0] > 127))
    assert np.array_equal(load_image(path).numpy(), np.where(RGB[..., 0] > 127, 255, 0)[None])


def test_sixteen_bits_are_rounded_to_eight(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 257, 40000, 65406, 65407, 65535]], np.uint16)
    assert load_image(save(tmp_path / "a.png", values)).tolist() == [[np.rint(values[0] / 257).astype(int).tolist()]]


def test_transparent_pixels_are_laid_over_black(tmp_path: Path) -> None:
    alpha = np.array([[0, 255, 128, 1, 254]] * 6, np.uint8)[..., None]
    expected = np.rint(RGB * (alpha / 255))
    assert np.array_equal(first(load_image(save(tmp_path / "a.png", np.concatenate([RGB, alpha], 2)))), expected)
    grey = load_image(save(tmp_path / "b.png", np.concatenate([RGB[..., :1], alpha], 2)))
    assert np.array_equal(first(grey), expected[..., :1])


def test_palettes_become_colour_and_their_transparent_entry_black(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="L").convert("L")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    assert first(load_image(save(tmp_path / "a.png", image))).tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    transparent = load_image(save(tmp_path / "b.png", image, transparency=1))
    assert first(transparent).tolist() == [[[255, 0, 0], [0, 0, 0], [0, 0, 255]]]


def test_cmyk(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)))
    assert np.abs(first(load_image(path)).astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["RGB", "I;16"])
def test_pictures_are_upright(orientation: int, kind: str, tmp_path: Path) -> None:
    upright = RGB[..., 0] if kind == "RGB" else RGB[..., 0].astype(np.uint16) * 257
    # Row 0 and column 0 of what is stored lie, in the picture, on the sides that TIFF 6.0 lists for the value.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", np.ascontiguousarray(stored), exif=exif)
    assert np.array_equal(load_image(path)[0].numpy(), RGB[..., 0])


def test_damage_in_other_tags_does_not_matter(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x011A] = 72.0  # a resolution, whose type is then made that of text
    tag, number, text = (int(value).to_bytes(2, "big") for value in (0x011A, 5, 2))
    content = exif.tobytes().replace(tag + number, tag + text)
    assert content != exif.tobytes()
    assert load_image(save(tmp_path / "a.png", RGB, exif=content)).shape == (3, 5, 6)


def test_brought_to_channels_and_size(tmp_path: Path) -> None:
    picture = load_image(save(tmp_path / "a.png", RGB), channels=1, image_size=(8, 9))
    assert picture.shape == (1, 8, 9)
    assert np.array_equal(picture[0, 1:7, 2:7].numpy(), np.array(Image.fromarray(RGB).convert("L")))


def encoded(format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.png", b"not a picture at all", "holds no image that can be read; needed PNG, JPEG, BMP, WEBP"),
        ("empty.png", b"", "holds no image that can be read"),
        ("page.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "holds no image that can be read"),
        ("cut.png", encoded("PNG")[:500], "can't be decoded: .*truncated"),
        ("cut.jpg", encoded("JPEG")[:700], "can't be decoded: .*truncated"),
        ("cut.bmp", encoded("BMP")[:500], "can't be decoded: .*truncated"),
        ("cut.webp", encoded("WEBP")[:200], "can't be decoded: |holds no image that can be read"),
        ("header.png", encoded("PNG")[:11] + b"\5" + encoded("PNG")[12:], "can't be decoded: Truncated IHDR chunk"),
        ("chunk.png", encoded("PNG")[:35] + b"\x09" + encoded("PNG")[36:], "can't be decoded: broken PNG file"),
        ("scrambled.png", encoded("PNG")[:60] + b"\xff" * 400 + encoded("PNG")[460:], "can't be decoded: "),
    ],
)
def test_what_is_no_picture(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{path}: {message}") as caught:
        load_image(path)
    assert "\n" not in str(caught.value)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^{tmp_path / 'none.png'}: No such file or directory; needed an image file"):
        load_image(tmp_path / "none.png")
    with pytest.raises(DataError, match=f"^{tmp_path}: Is a directory"):
        load_image(tmp_path)


class TestPixels:
    """A file with too many pixels is refused, whatever Pillow's own limit is, and the remedy is told."""

    def test_one_too_many(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.png", RGB)
        assert load_image(path, max_pixels=30).shape == (3, 6, 5)
        with pytest.raises(DataError, match=r"a.png: has 30 pixels \(5x6\); needed 29 or fewer.*--max-pixels 30"):
            load_image(path, max_pixels=29)

    @pytest.mark.parametrize("pillows", [20, 10, None])
    def test_pillows_limit_stays_as_it_is(self, pillows: int | None, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert load_image(save(tmp_path / "a.png", RGB)).shape == (3, 6, 5)
        assert pillows == Image.MAX_IMAGE_PIXELS

    def test_in_threads(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.png", RGB)

        def refused(_: int) -> bool:
            try:
                load_image(path, max_pixels=29)
            except DataError:
                return True
            return False

        before = Image.MAX_IMAGE_PIXELS
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(refused, range(200)))
        assert before == Image.MAX_IMAGE_PIXELS

    @pytest.mark.slow
    def test_a_photograph_of_a_hundred_megapixels_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "large.png"
        Image.new("1", (11_648, 8_736)).save(path)  # a hundredth of the bytes of colour, and as many pixels
        assert load_image(path, image_size=(8, 8)).shape == (1, 8, 8)


class TestReducedScale:
    """JPEGs that are far larger than what is needed of them are decoded at 1/2, 1/4 or 1/8."""

    @pytest.mark.parametrize("orientation", [1, 6])
    @pytest.mark.parametrize(("target", "scale"), [((300, 400), 1), ((100, 100), 2), ((50, 40), 4), ((8, 8), 8)])
    def test_never_below_twice_the_size(
        self, target, scale: int, orientation: int, tmp_path: Path, monkeypatch
    ) -> None:
        smooth = np.kron(np.arange(48, dtype=np.uint8).reshape(6, 8) * 5, np.ones((100, 100), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / "a.jpg"
        Image.fromarray(smooth).save(path, quality=95, exif=exif)
        seen: list[tuple[int, int]] = []
        pixels = decoding._pixels
        monkeypatch.setattr(decoding, "_pixels", lambda image: (seen.append(image.size), pixels(image))[1])
        fitted = load_image(path, image_size=target)
        upright = (800, 600) if orientation == 1 else (600, 800)
        assert seen == [tuple(-(-side // scale) for side in upright)]
        whole = fit_image(load_image(path), target)
        assert (fitted.int() - whole.int()).abs().float().mean() < 2

    def test_a_crop_is_decoded_as_large_as_it_needs(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (15, 20, 3), dtype=np.uint8)
        path = tmp_path / "a.jpg"
        Image.fromarray(noise).resize((800, 600), Image.Resampling.BICUBIC).save(path, quality=98)
        read = Reading(Fit((32, 32), "crop"), 3)
        for crop in (Crop(0.05, 1.0, 0.3, 0.6), Crop(0.9, 1.2, 0.5, 0.5)):
            exact = Reading(None, 3)(path)
            assert (read(path, crop).int() - read.fit(exact, crop).int()).abs().float().mean() < 3


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="is no regular file"):
        load_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("format", ["GIF", "TIFF"])
def test_of_several_pictures_the_first(format: str, tmp_path: Path) -> None:
    first, second = (Image.new("L", (4, 3), value) for value in (10, 200))
    path = tmp_path / f"a.{format.lower()}"
    first.save(path, format, save_all=True, append_images=[second])
    assert (load_image(path, channels=1) == 10).all()


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.ones((3, 4), dtype=np.float32)).save(path)
    with pytest.raises(DataError, match="floating-point numbers"):
        load_image(path)


def test_heic_takes_a_package(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    path = tmp_path / "a.HEIC"
    Image.new("RGB", (60, 40), (200, 100, 50)).save(path, format="HEIF")
    assert is_image(path) is None
    assert (load_image(path).float().mean((1, 2)) - torch.tensor([200.0, 100, 50])).abs().max() < 3


def test_without_it_heic_is_told_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_heif", lambda: False)
    assert is_image(Path("a.heic")) == "HEIC needs the package pillow-heif: pip install 'striate[heic]'"
