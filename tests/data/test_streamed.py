"""Images that stay encoded: the same order and the same bits as in memory, also through worker processes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from striate.data import Augmentation, Batches, ImageSet, Normalization, StreamedSet, load
from striate.errors import DataError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()


def encoded(seed: int, size: tuple[int, int] = (9, 7), mode: str = "RGB") -> bytes:
    shape = (*size, 3) if mode == "RGB" else size
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root: Path, count: int = 7) -> str:
    for number in range(count):
        path = root / "pets" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number, (9 + number % 3, 7)))
    return f"folder:{root / 'pets'}"


def parquet(root: Path, count: int = 7, name: str = "train.parquet", **odd: object) -> str:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {
        "image": [{"bytes": encoded(n, (9 + n % 3, 7)), "path": None} for n in range(count)],
        "label": [n % 2 for n in range(count)],
    }
    datasets.Dataset.from_dict(rows | odd, features=features).to_parquet(str(root / name))
    return f"hf:{root / name}"


@pytest.mark.parametrize("source", [folder, parquet])
@pytest.mark.parametrize("workers", [0, 2])
def test_same_order_and_same_bits_as_in_memory(source, workers: int, tmp_path: Path) -> None:
    where = source(tmp_path)
    kept, streamed = (load(where, image_size=(8, 8), seed=1, stream=stream) for stream in (False, True))
    assert isinstance(kept.train, ImageSet)
    assert isinstance(streamed.train, StreamedSet)
    assert streamed.train.classes == kept.train.classes == ("cat", "dog")
    assert torch.equal(streamed.test.gather(torch.arange(len(streamed.test))), kept.test.images)
    normalization = Normalization.of(streamed.train, workers)
    assert normalization == Normalization.of(kept.train)
    for augmentation in (None, Augmentation("photo", mixup=0.3)):
        sides = [
            Batches(each.train, 2, normalization, shuffle_seed=4, augmentation=augmentation, workers=workers)
            for each in (kept, streamed)
        ]
        for (one, first), (two, second) in zip(sides[0].epoch(1), sides[1].epoch(1), strict=True):
            assert torch.equal(one, two)
            assert torch.equal(first, second)


def test_what_is_large_stays_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = folder(tmp_path)
    monkeypatch.setattr("striate.data.streamed.IN_MEMORY", 7 * 3 * 64)
    assert isinstance(load(where, image_size=(8, 8)).train, ImageSet)
    assert isinstance(load(where, image_size=(8, 9)).train, StreamedSet)
    with pytest.raises(DataError, match=r"^stream: got no image size"):
        load(where, stream=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_one_line_when_its_batch_comes(workers: int, tmp_path: Path) -> None:
    images = load(folder(tmp_path), image_size=(8, 8), stream=True).train
    broken = tmp_path / "pets" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    batches = Batches(images, 2, Normalization((0.5,) * 3, (0.5,) * 3), workers=workers)
    with pytest.raises(DataError, match=rf"^{broken}: can't be decoded") as caught:
        list(batches.epoch(0))
    assert "\n" not in str(caught.value)


def test_a_batch_may_have_no_image_for_a_process(tmp_path: Path) -> None:
    images = load(folder(tmp_path), image_size=(8, 8), stream=True).train
    batches = Batches(images, 4, Normalization((0.5,) * 3, (0.5,) * 3), part=(2, 3))
    assert [len(labels) for _, labels in batches.epoch(0)] == [1, 0]


class TestHub:
    def test_splits(self, tmp_path: Path) -> None:
        parquet(tmp_path, 8, "train-0.parquet")
        parquet(tmp_path, 4, "test-0.parquet")
        found = load(f"hf:{tmp_path}", image_size=(8, 8))
        assert (len(found.train), len(found.test)) == (8, 4)
        found = load(f"hf:{tmp_path}:test", image_size=(8, 8))
        assert len(found.train) + len(found.test) == 4
        assert found.train.known[0].name.startswith("test row ")
        with pytest.raises(DataError, match=r"has no split 'valid'; needed one of .*test"):
            load(f"hf:{tmp_path}:valid")

    def test_labels_that_are_words(self, tmp_path: Path) -> None:
        rows = {"picture": [{"bytes": encoded(n), "path": None} for n in range(4)], "label": ["b", "a", "a", "b"]}
        features = datasets.Features({"picture": datasets.Image(), "label": datasets.Value("string")})
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "x.parquet"))
        found = load(f"hf:{tmp_path / 'x.parquet'}", test_fraction=0.5)
        assert found.train.classes == ("a", "b")

    def test_wrong_tables(self, tmp_path: Path) -> None:
        datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(str(tmp_path / "text.parquet"))
        with pytest.raises(DataError, match="has the columns text; needed one of images"):
            load(f"hf:{tmp_path / 'text.parquet'}")
        (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing more")
        with pytest.raises(DataError, match=r"broken\.parquet: can't be loaded") as caught:
            load(f"hf:{tmp_path / 'broken.parquet'}")
        assert "\n" not in str(caught.value)
        with pytest.raises(DataError, match="has images without a class"):
            load(parquet(tmp_path, 3, "unlabelled.parquet", label=[0, -1, 1]))

    def test_a_row_that_is_no_image(self, tmp_path: Path) -> None:
        images = [
            {"bytes": encoded(0), "path": None},
            {"bytes": b"text", "path": None},
            {"bytes": encoded(2), "path": None},
        ]
        with pytest.raises(DataError, match=r"1 of 3 images: .*row 1: holds no image"):
            load(parquet(tmp_path, 3, image=images))
        images[1:] = [images[0], None]
        with pytest.raises(DataError, match=r"row 2: no image"):
            load(parquet(tmp_path, 3, "other.parquet", image=images))

    def test_no_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unreachable(*_: object, **__: object) -> None:
            raise ConnectionError("Couldn't reach 'owner/name' on the Hub\nand more")

        monkeypatch.setattr(datasets, "load_dataset", unreachable)
        with pytest.raises(
            DataError, match=r"^hf:owner/name: can't be loaded \(Couldn't reach .* on the Hub\); needed"
        ):
            load("hf:owner/name")
