from __future__ import annotations

import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from striate.data import load_image
from striate.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray | Image.Image, **options: object) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def first(tensor: torch.Tensor) -> np.ndarray:
    return tensor.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp", "upper.PNG"])
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
        ("moving.gif", encoded("GIF"), "holds no image that can be read"),
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


@pytest.mark.parametrize("limit", [20, 10], ids=["warned of", "refused"])
def test_a_decompression_bomb(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", RGB)  # 30 pixels: Pillow warns from its limit on, and refuses from twice that on
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=f"^{path}: can't be decoded: Image size .30 pixels. exceeds limit"):
        load_image(path)


def test_bombs_are_found_in_threads_and_the_warning_filters_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.png", RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)

    def refused(_: int) -> bool:
        try:
            load_image(path)
        except DataError:
            return True
        return False

    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(refused, range(200)))
    assert list(warnings.filters) == before
