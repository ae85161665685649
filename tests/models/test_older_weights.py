"""Weight files of older versions of torchvision: names brought up to date, and the number that was not added."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from striate import models, nn
from striate.models import faster_rcnn, mask_rcnn
from striate.models.older_weights import renewed

Tensors = dict[str, torch.Tensor]


def aged(tensors: Tensors) -> Tensors:
    """Tensors under the names that torchvision had before."""
    older = {}
    for name, tensor in tensors.items():
        name = re.sub(r"(fpn\.\w+_blocks\.\d)\.0\.", r"\1.", name)
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        name = re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", name)
        name = re.sub(r"(n_head\.conv)\.(\d)\.0\.", lambda found: f"{found[1]}.{2 * int(found[2])}.", name)
        older[name] = tensor
    return older


NEW = (
    "backbone.fpn.inner_blocks.3.0.weight",
    "backbone.fpn.layer_blocks.0.0.bias",
    "rpn.head.conv.0.0.weight",
    "roi_heads.mask_head.0.0.weight",
    "roi_heads.mask_head.3.0.bias",
    "head.classification_head.conv.0.0.weight",
    "head.regression_head.conv.3.0.bias",
    "backbone.body.layer1.0.bn1.weight",
    "roi_heads.box_predictor.cls_score.weight",
)


def test_older_names_become_newer_and_newer_stay() -> None:
    tensors = {name: torch.full((2,), float(index)) for index, name in enumerate(NEW)}
    older = aged(tensors)
    assert len(older.keys() - tensors.keys()) == 7
    for given in (older, tensors):
        found = renewed(given)
        assert list(found) == list(NEW)
        assert all(torch.equal(found[name], tensors[name]) for name in NEW)
    assert "module.fpn.layer_blocks.0.0.bias" in renewed({"module.fpn.layer_blocks.0.bias": torch.zeros(2)})


def test_heads_of_fcos_keep_their_names() -> None:
    given = {"fpn.inner_blocks.0.bias": 0, "head.regression_head.bbox_ctrness.bias": 0, "n_head.conv.3.bias": 0}
    assert "n_head.conv.3.bias" in renewed({name: torch.zeros(1) for name in given})


def small(builder: Callable[..., torch.nn.Module], name: str) -> torch.nn.Module:
    """A network with other numbers in its frozen layers than ones and zeros; some variances are tiny."""
    torch.manual_seed(0)
    model = builder(3, min_size=64, max_size=64, rpn_post_nms_top_n_test=5)
    for layer in model.modules():
        if isinstance(layer, nn.FrozenBatchNorm2d):
            layer.running_var.copy_(torch.rand(layer.num_features) ** 8 + 1e-6)
            layer.weight.copy_(layer.running_var.sqrt())
    return model.eval()


def save(tensors: Tensors, path: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


@pytest.mark.parametrize(
    ("builder", "name", "added"),
    [
        pytest.param(faster_rcnn.resnet50, "fasterrcnn_resnet50_fpn", 0.0, marks=pytest.mark.slow),
        pytest.param(mask_rcnn.resnet50, "maskrcnn_resnet50_fpn", 0.0, marks=pytest.mark.slow),
        (faster_rcnn.mobilenet, "fasterrcnn_mobilenet_v3_large_fpn", 1e-5),
    ],
)
def test_an_older_file_gives_what_it_gave(
    builder: Callable[..., torch.nn.Module], name: str, added: float, tmp_path: Path
) -> None:
    model = small(builder, name)
    path = save(aged(model.state_dict()), tmp_path / "w.safetensors")
    expected = copy.deepcopy(model)
    for layer in expected.modules():
        if isinstance(layer, nn.FrozenBatchNorm2d):
            layer.eps = added
    loaded = builder(3).eval()
    models.load_weights(loaded, path)
    model.load_state_dict(aged(model.state_dict()))  # the same without a file
    images = torch.rand(1, 3, 64, 64)
    wanted = expected.backbone(images)
    with torch.no_grad():
        for other in (loaded, model):
            for level, maps in other.backbone(images).items():
                torch.testing.assert_close(maps, wanted[level], rtol=1e-4, atol=1e-4 * wanted[level].abs().max().item())
    # What is saved now has new names, and is not changed again.
    again = save(loaded.state_dict(), tmp_path / "again.safetensors")
    models.load_weights(model, again)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_scales_change_where_the_number_was_not_added_only() -> None:
    layer = {"weight": torch.ones(2), "bias": torch.zeros(2), "running_var": torch.tensor([1.0, 1e-5])}
    name, pyramid = "backbone.body.layer2.0.bn1", {"backbone.fpn.inner_blocks.0.bias": torch.zeros(1)}
    older = {f"{name}.{leaf}": tensor for leaf, tensor in layer.items()} | pyramid
    torch.testing.assert_close(renewed(older)[f"{name}.weight"], torch.tensor([1 + 5e-6, 2**0.5]))
    counted = older | {f"{name}.num_batches_tracked": torch.tensor(3)}
    for given in (counted, {key: tensor for key, tensor in older.items() if key not in pyramid}):
        assert torch.equal(renewed(given)[f"{name}.weight"], torch.ones(2))
