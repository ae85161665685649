"""Proposals: their order, their number, and losses that stay finite."""

from __future__ import annotations

import pytest
import torch

from striate import nn, ops


def network(**settings: float) -> nn.RegionProposalNetwork:
    torch.manual_seed(0)
    return nn.RegionProposalNetwork(nn.AnchorGenerator(((8,), (16,))), nn.ProposalHead(4, 3), **settings)


def inputs() -> tuple[nn.ImageBatch, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    maps = {name: torch.randn(2, 4, side, side, generator=generator) for name, side in (("0", 8), ("1", 4))}
    return nn.ImageBatch(torch.zeros(2, 3, 32, 32), [(32, 32), (20, 30)]), maps


def test_proposals_lie_inside_of_their_images_and_overlap_little() -> None:
    proposals, losses = network(post_nms_top_n_test=20).eval()(*inputs())
    assert losses == {}
    for boxes, (height, width) in zip(proposals, inputs()[0].image_sizes, strict=True):
        assert 0 < len(boxes) <= 20
        assert (boxes >= 0).all()
        assert (boxes[:, 2] <= width).all()
        assert (boxes[:, 3] <= height).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        # suppression is by level, so at most two overlap much
        assert (ops.box_iou(boxes, boxes) > 0.7).sum(1).max() <= 2


def test_training_and_evaluation_have_their_own_numbers() -> None:
    rpn = network(pre_nms_top_n_train=30, post_nms_top_n_train=7, post_nms_top_n_test=3)
    assert [len(boxes) for boxes in rpn.train()(*inputs())[0]] == [7, 7]
    assert [len(boxes) for boxes in rpn.eval()(*inputs())[0]] == [3, 3]
    assert [len(boxes) for boxes in network(score_thresh=1.1)(*inputs())[0]] == [0, 0]


@pytest.mark.parametrize("what", ["objects", "none", "tiny"])
def test_losses_and_gradients_are_finite(what: str) -> None:
    known = {
        "objects": torch.tensor([[2.0, 2, 12, 12], [10, 10, 31, 20]]),
        "none": torch.zeros(0, 4),
        "tiny": torch.tensor([[4.0, 4, 4 + 1e-6, 4 + 1e-6], [0, 0, 1e-30, 1e-30]]),
    }[what]
    rpn = network()
    _, losses = rpn(*inputs(), [{"boxes": known}, {"boxes": torch.zeros(0, 4)}])
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg"}
    sum(losses.values(), torch.zeros(())).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in rpn.parameters())


def test_it_learns_where_objects_are() -> None:
    rpn, (batch, maps) = network(), inputs()
    targets = [{"boxes": torch.tensor([[3.0, 5, 15, 13]])}, {"boxes": torch.tensor([[14.0, 2, 29, 18]])}]
    optimiser = torch.optim.Adam(rpn.parameters(), 0.02)
    first = None
    for _ in range(60):
        optimiser.zero_grad()
        loss = sum(rpn(batch, maps, targets)[1].values(), torch.zeros(()))
        loss.backward()
        optimiser.step()
        first = loss.item() if first is None else first
    assert loss.item() < first / 5
    for boxes, target in zip(rpn.eval()(batch, maps)[0], targets, strict=True):
        assert ops.box_iou(boxes[:1], target["boxes"]).item() > 0.6
