"""Exported detectors: what ONNX Runtime finds is what the network finds, on pictures of many sizes, of none, one and
many objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

import small_detectors
from cases import slow_but
from small_detectors import centers, pictures, two_stage
from striate import models, ops
from striate.errors import ExportError, RunError
from striate.export import Exported, Subject, export
from striate.tasks.detection import Detection
from striate.tasks.exportable import ExportableObjects, objects_of
from striate.tasks.instance import Instance

Found = list[dict[str, Tensor]]


def one_stage() -> torch.nn.Module:
    return small_detectors.OneStage().eval()


#: What builds a network.
NETWORKS: dict[str, Any] = {
    "centers": lambda: centers(False),
    "outlines": lambda: centers(True),
    "one_stage": one_stage,
    "two_stage": lambda: two_stage(False),
    "masks": lambda: two_stage(True),
}


def made(build: Any) -> Any:
    torch.manual_seed(0)
    return build()


def written(model: Any, images: Tensor, path: Path, format: str = "onnx", suppression: str | None = None) -> Exported:
    task = Instance() if getattr(model, "has_masks", False) else Detection()
    form = task.exported(model, suppression)
    return export(Subject(model, "mine", ("red", "green", "blue"), {}, images, given=form), format, path)


def found_by(session: Any, images: Tensor) -> dict[str, Tensor]:
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(None, {"images": images.numpy()})), strict=True))


@torch.no_grad()
def by_the_network(model: Any, images: Tensor) -> Found:
    """What it finds without scaling images."""
    if hasattr(model, "transform") and model.transform.fixed_size is None:
        height, width = images.shape[2:]
        model.transform.min_size, model.transform.max_size = (min(height, width),), max(height, width)
    found: Found = model(list(images))
    return found


def assert_alike(rows: dict[str, Tensor], wanted: Found) -> None:
    """Rows in the order of their images, of which each has its objects, the surest first; labels are from 0."""
    assert rows["image"].tolist() == sorted(rows["image"].tolist())
    for number, result in enumerate(wanted):
        own = rows["image"] == number
        assert torch.equal(rows["labels"][own], result["labels"] - 1)
        torch.testing.assert_close(rows["boxes"][own], result["boxes"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(rows["scores"][own], result["scores"], rtol=1e-4, atol=1e-4)
        if "masks" in result:
            torch.testing.assert_close(rows["masks"][own], result["masks"][:, 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", slow_but(NETWORKS, ["centers"]))
def test_onnx_runtime_finds_the_same(name: str, tmp_path: Path) -> None:
    model = made(NETWORKS[name])
    done = written(model, pictures((64, 64), 0, 1, 5), tmp_path / "network.onnx")
    assert done.objects == 6 or name not in ("centers", "outlines")
    assert "multiples of" in done.sizes
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    for size, *objects in (((64, 64), 0), ((96, 64), 1), ((64, 160), 9, 0, 1, 3), ((128, 128), 0, 0)):
        images = pictures(size, *objects)
        wanted = by_the_network(model, images)
        counts = [len(result["boxes"]) for result in wanted]
        assert [count > 0 for count in counts] == [count > 0 for count in objects], "something is found where it is"
        assert_alike(found_by(session, images), wanted)
    assert {"NonMaxSuppression"} <= {node.op_type for node in onnx.load(tmp_path / "network.onnx").graph.node} or (
        name in ("centers", "outlines")
    )


@pytest.mark.slow
def test_suppression_may_be_left_to_the_reader(tmp_path: Path) -> None:
    model = made(one_stage)
    done = written(model, pictures((64, 64), 1, 5), tmp_path / "network.onnx", suppression="outside")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    assert not {"NonMaxSuppression", "NonZero"} & {node.op_type for node in onnx.load(done.path).graph.node}
    limits = json.loads(session.get_modelmeta().custom_metadata_map["suppression"])
    assert limits == {"where": "outside", "score_threshold": 0.4, "iou_threshold": 0.1, "detections": 20}
    images = pictures((96, 64), 0, 1, 7)
    found = found_by(session, images)
    assert found["boxes"].shape[:2] == found["scores"].shape == found["labels"].shape
    for row, wanted in enumerate(by_the_network(model, images)):
        boxes, scores, labels = (found[key][row] for key in ("boxes", "scores", "labels"))
        likely = scores > limits["score_threshold"]
        boxes, scores, labels = boxes[likely], scores[likely], labels[likely]
        kept = ops.batched_nms(boxes, scores, labels, limits["iou_threshold"])[: limits["detections"]]
        assert torch.equal(labels[kept], wanted["labels"] - 1)
        torch.testing.assert_close(boxes[kept], wanted["boxes"], rtol=1e-4, atol=1e-3)
        assert len(boxes) > len(kept) or not len(kept), "the file leaves out nothing"


@pytest.mark.slow
def test_a_detectors_file_says_what_its_outputs_are(tmp_path: Path) -> None:
    model = made(NETWORKS["centers"])
    written(model, pictures((64, 64), 1), tmp_path / "network.pt2", "torch-export")
    extra = dict.fromkeys(("outputs", "suppression", "classes"), "")
    program = torch.export.load(tmp_path / "network.pt2", extra_files=extra).module()
    assert list(json.loads(extra["outputs"])) == ["image", "boxes", "labels", "scores"]
    assert json.loads(extra["suppression"]) == {"where": "nowhere", "score_threshold": 0.5}
    images = pictures((96, 128), 2, 0)
    found = dict(zip(json.loads(extra["outputs"]), program(images), strict=True))
    assert_alike(found, by_the_network(model, images))


def test_weights_of_a_detector_are_a_weights_file(tmp_path: Path) -> None:
    model = made(NETWORKS["centers"])
    done = written(model, pictures((64, 64), 0, 1, 4), tmp_path / "network.safetensors", "safetensors")
    assert (done.max_difference, done.objects) == (0, 5)


@pytest.mark.parametrize(
    ("name", "suppression", "said"),
    [
        ("centers", "inside", "suppression: got 'inside'; needed none: CenterNet finds each object once"),
        ("one_stage", "within", "suppression: got 'within'; needed inside or outside"),
        ("masks", "outside", "needed 'inside': Outlined draws the masks of what suppression leaves"),
    ],
)
def test_choices_that_a_network_has_not(name: str, suppression: str, said: str) -> None:
    with pytest.raises(RunError) as caught:
        Detection().exported(made(NETWORKS[name]), suppression)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_networks_without_boxes_leave_no_choice() -> None:
    from striate.tasks.classification import Classification
    from striate.tasks.semantic import Semantic

    for task in (Classification(), Semantic()):
        with pytest.raises(RunError, match=r"needed none: a network for .* finds no boxes"):
            task.exported(torch.nn.Identity(), "outside")
    with pytest.raises(RunError, match="Identity has no method detect_batch"):
        Detection().exported(torch.nn.Identity())


def rows(*objects: tuple[int, float, int]) -> tuple[Tensor, ...]:
    """Of (image, score, label): boxes hang on the score."""
    image, score, label = (torch.tensor(each) for each in zip(*objects, strict=True))
    return image, score[:, None] * torch.tensor([0.0, 0, 10, 10]), label, score


def test_results_are_compared_object_by_object() -> None:
    form = ExportableObjects(torch.nn.Identity(), ("image", "boxes", "labels", "scores"), threshold=0.1)
    images = torch.zeros(2, 3, 10, 20)
    first = rows((0, 0.5, 1), (0, 0.4, 1), (1, 0.9, 0))

    def apart(*objects: tuple[int, float, int]) -> list[float]:
        found: list[float] = form.differences(first, rows(*objects), images).tolist()
        return found

    assert apart((0, 0.4, 1), (0, 0.5, 1), (1, 0.9, 0)) == [0, 0], "in any order"
    assert apart((0, 0.5, 1), (0, 0.4, 1), (1, 0.9, 0), (1, 0.05, 0)) == [0, 0], "what is too unsure is none"
    assert apart((0, 0.5, 1), (0, 0.3, 1), (1, 0.9, 0)) == pytest.approx([0.1, 0])
    assert apart((0, 0.5, 1), (0, 0.4, 0), (1, 0.9, 0)) == [torch.inf, 0], "another class"
    assert apart((0, 0.5, 1), (1, 0.9, 0)) == [torch.inf, 0], "one less"
    assert apart((0, 0.5, 1), (0, 0.4, 1), (1, 0.9, 0), (1, 0.8, 0)) == [0, torch.inf], "one more"
    assert form.counted(first) == 3


@pytest.mark.slow
def test_a_file_that_finds_other_objects_is_not_written(tmp_path: Path) -> None:
    model = made(NETWORKS["centers"])
    original = type(model).detect_batch

    class Elsewhere(type(model)):  # type: ignore[misc]
        def detect_batch(self, images: Tensor) -> dict[str, Tensor]:
            found: dict[str, Tensor] = original(self, images)
            if torch.compiler.is_compiling():
                found["labels"] = 4 - found["labels"]
            return found

    model.__class__ = Elsewhere
    with pytest.raises(ExportError, match="results differ by other objects"):
        written(model, pictures((64, 64), 3), tmp_path / "network.pt2", "torch-export")
    assert not list(tmp_path.iterdir())


WHOLE = [*models.names("detection"), *models.names("instance")]


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_every_detector_exports(name: str, tmp_path: Path) -> None:
    """Whole networks, with heads by which something is found."""
    torch.manual_seed(3)
    model: Any = models.create(name, num_classes=4).eval()
    images = torch.rand(2, 3, 256, 256)
    limits = model.roi_heads if hasattr(model, "roi_heads") else model
    with torch.no_grad():
        for threshold in (0.9, 0.5, 0.4, 0.35, 0.3, 0.26, 0.1, 0.03, 0.01, 0.0):
            name_of = "score_threshold" if hasattr(limits, "score_threshold") else "score_thresh"
            setattr(limits, name_of, threshold)
            if sum(len(each["boxes"]) for each in by_the_network(model, images)):
                break
    form = objects_of(model, "detection", None)
    done = export(Subject(model, name, ("a", "b", "c"), {}, images, given=form), "onnx", tmp_path / "network.onnx")
    assert done.objects
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    other = torch.rand(1, 3, 288, 320)
    counts = [len(each["boxes"]) for each in by_the_network(model, other)]
    assert len(found_by(session, other)["boxes"]) == sum(counts)
