"""One-stage detectors beside torchvision's, with the same random weights, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peer
import torch
from torch import Tensor

#: With the background.
CLASSES = 6


def targets(*objects: tuple[list[list[float]], list[int]]) -> list[dict[str, Tensor]]:
    """For each image its boxes and labels, in float64."""
    return [
        {"boxes": torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4), "labels": torch.tensor(labels).long()}
        for boxes, labels in objects
    ]


def pictures() -> list[Tensor]:
    """Two pictures of different sizes, in float64, with noise, so that hardly two places look alike."""
    torch.manual_seed(5)
    return [image.double() + 0.1 * torch.rand_like(image).double() for image in peer.images((90, 130), (121, 84))]


#: What the first of these pictures shows; nothing is on the second.
KNOWN = targets(([[10, 20, 60, 80], [50, 5, 70, 33], [1, 2, 128, 89], [100, 40, 108, 47]], [3, 5, 1, 2]), ([], []))


@torch.no_grad()
def pair(name: str, builder: Callable[..., torch.nn.Module], **options: Any) -> tuple[Any, Any]:
    """Our network and torchvision's with the same weights, such that values neither die out nor grow on their way."""
    torch.manual_seed(1)
    theirs = peer.spread(peer.detection(name, num_classes=CLASSES, **options)).double()
    for layer in theirs.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    logits: list[Tensor] = []
    handle = theirs.head.register_forward_hook(lambda _, __, output: logits.append(output["cls_logits"]))
    theirs.eval()(pictures())
    handle.remove()
    for layer in theirs.head.classification_head.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.out_channels % CLASSES == 0:
            layer.weight.div_(logits[0].std())
    ours = builder(CLASSES, **options).double()
    ours.load_state_dict({key: value for key, value in theirs.state_dict().items() if key in ours.state_dict()})
    return ours, theirs


def assert_losses_agree(ours: Any, theirs: Any, known: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Losses and their gradients are torchvision's. Statistics of a batch are nobody's."""
    for model in (ours, theirs):
        model.train()
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.eval()
        model.zero_grad()
    here, there = ours(pictures(), known), theirs(pictures(), known)
    assert here.keys() == there.keys()
    for name, loss in here.items():
        # torchvision scales boxes in float32
        torch.testing.assert_close(loss, there[name], rtol=1e-6, atol=1e-9)
    for losses in (here, there):
        sum(losses.values(), torch.zeros(())).backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-7)
    return {name: loss.detach() for name, loss in here.items()}


@torch.no_grad()
def assert_results_agree(ours: Any, theirs: Any, at_least: int = 5) -> None:
    """Boxes, labels and scores are torchvision's, in the same order, and there are some in each picture."""
    here, there = ours.eval()(pictures()), theirs.eval()(pictures())
    assert len(here) == len(there)
    for found, expected in zip(here, there, strict=True):
        assert len(expected["boxes"]) >= at_least
        assert len(expected["labels"].unique()) > 1
        torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-9, atol=1e-9)
        assert torch.equal(found["labels"], expected["labels"])
        torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=1e-6, atol=1e-4)


def assert_names_and_count(name: str, create: Callable[..., torch.nn.Module], parameters: int) -> None:
    """Keys, shapes and number of parameters are torchvision's, with 91 classes, without memory for the numbers."""
    peer.torchvision()  # which reads files, and so can't be imported on the meta device
    with torch.device("meta"):
        ours, theirs = create(name), peer.detection(name)
    expected = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    found = {key: tensor.shape for key, tensor in ours.state_dict().items()}
    # frozen batch normalisation counts no batches
    assert found == {key: shape for key, shape in expected.items() if key in found or "num_batches" not in key}
    assert list(found) == [key for key in expected if key in found]
    assert sum(parameter.numel() for parameter in ours.parameters()) == parameters
