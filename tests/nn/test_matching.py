"""Matching, coding and sampling: laws that hold for random boxes, and the cases that break losses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from striate import nn, ops

CODERS = (nn.BoxCoder(), nn.BoxCoder((10.0, 10.0, 5.0, 5.0)))


def boxes(count: int, generator: torch.Generator, side: float = 200.0) -> torch.Tensor:
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * side
    return torch.cat([corner, corner + torch.rand(count, 2, generator=generator, dtype=torch.float64) * side + 1], 1)


@pytest.mark.parametrize("coder", CODERS)
def test_decoding_undoes_encoding(coder: nn.BoxCoder) -> None:
    generator = torch.Generator().manual_seed(0)
    truth, anchors = boxes(50, generator), boxes(50, generator)
    grown = truth[:, None].expand(50, 3, 4)
    torch.testing.assert_close(coder.decode(coder.encode(truth, anchors), anchors), truth)
    torch.testing.assert_close(coder.decode(coder.encode(grown, anchors[:, None]), anchors[:, None]), grown)


def test_decoded_sides_are_cut_off() -> None:
    anchor = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    decoded = nn.BoxCoder().decode(torch.tensor([[0.0, 0.0, 1e4, -1e4]]), anchor)
    torch.testing.assert_close(decoded, torch.tensor([[-492.0, 8.0, 508.0, 8.0]]))


@pytest.mark.parametrize("side", [0.0, 1e-30, 1e-3])
def test_codes_of_tiny_boxes_are_finite(side: float) -> None:
    tiny, anchor = torch.tensor([[5.0, 5.0, 5.0 + side, 6.0]]), torch.tensor([[0.0, 0.0, 512.0, 512.0]])
    for truth, at in ((tiny, anchor), (anchor, tiny), (tiny, tiny)):
        assert nn.BoxCoder((10.0, 10.0, 5.0, 5.0)).encode(truth, at).isfinite().all()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 6), st.integers(0, 40), st.integers(0, 1000), st.booleans())
def test_every_anchor_has_the_box_that_the_rules_say(count: int, anchors: int, seed: int, low_quality: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    overlaps = (torch.rand(count, anchors, generator=generator).double() * 10).round() / 10  # so that some are equal
    found = nn.Matcher(0.7, 0.3, low_quality)(overlaps).tolist()
    assert len(found) == anchors
    for anchor, box in enumerate(found):
        column = overlaps[:, anchor]
        best = column.max().item() if count else 0.0
        favoured = [row for row in range(count) if 0 < overlaps[row].max() == column[row]]
        if best >= 0.7 or (low_quality and favoured):
            assert column[box] == best
        else:
            assert box == (nn.BACKGROUND if best < 0.3 else nn.BETWEEN)


def test_a_box_that_overlaps_nothing_takes_no_anchors() -> None:
    overlaps = torch.tensor([[0.0, 0.0, 0.0], [0.9, 0.1, 0.0]])
    assert nn.Matcher(0.7, 0.3, low_quality=True)(overlaps).tolist() == [1, -1, -1]


def test_what_is_matched_is_taken_and_zeros_stand_for_nothing() -> None:
    matches = torch.tensor([1, nn.BACKGROUND, nn.BETWEEN, 0])
    assert nn.matched(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), matches).tolist() == [[3, 4], [0, 0], [0, 0], [1, 2]]
    assert nn.matched(torch.zeros(0, 4), torch.tensor([nn.BACKGROUND, nn.BETWEEN])).tolist() == [[0] * 4] * 2


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(0, 5),
    st.integers(1, 16),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
def test_samples_are_balanced_distinct_and_by_seed(
    positive: int, negative: int, left_out: int, count: int, fraction: float
) -> None:
    labels = torch.tensor([2] * positive + [0] * negative + [-1] * left_out, dtype=torch.int64)
    labels = labels[torch.randperm(len(labels))]
    sampler = nn.BalancedSampler(count, fraction)
    torch.manual_seed(5)
    chosen, background = sampler(labels)
    assert len(chosen) == min(positive, int(count * fraction))
    assert len(background) == min(negative, count - len(chosen))
    assert (labels[chosen] > 0).all()
    assert (labels[background] == 0).all()
    assert len(set(chosen.tolist())) == len(chosen)
    torch.manual_seed(5)
    assert all(torch.equal(*pair) for pair in zip(sampler(labels), (chosen, background), strict=True))


def test_every_sample_is_as_likely() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0])
    drawn = torch.zeros(8)
    for _ in range(2000):
        drawn[torch.cat(nn.BalancedSampler(4, 0.5)(labels))] += 1
    torch.testing.assert_close(drawn[:3] / 2000, torch.full((3,), 2 / 3), atol=0.05, rtol=0)
    torch.testing.assert_close(drawn[3:] / 2000, torch.full((5,), 2 / 5), atol=0.05, rtol=0)


def test_anchors_match_by_overlap_end_to_end() -> None:
    truth = torch.tensor([[0.0, 0.0, 32.0, 32.0]])
    anchors = torch.tensor([[0.0, 0.0, 32.0, 30.0], [16.0, 0.0, 48.0, 32.0], [90.0, 90.0, 99.0, 99.0]])
    assert nn.Matcher(0.7, 0.3)(ops.box_iou(truth, anchors)).tolist() == [0, nn.BETWEEN, nn.BACKGROUND]
