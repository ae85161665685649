"""The smallest change found that makes a network predict another class, with the evidence before and after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor

from striate.analysis.adversarial import pgd
from striate.analysis.probing import Prepare
from striate.drawing import Pictured
from striate.errors import ExplainError
from striate.explain.arguments import checked
from striate.explain.gradients import saliency
from striate.explain.inputs import arguments_of, home_of
from striate.explain.pictures import check_picture, prepared
from striate.explain.probe import Probe, probing
from striate.explain.result import Explanation, Method, made_by
from striate.explain.targets import logits_of

#: How far beyond the linearised boundary a step goes, as in the paper.
_OVERSHOOT: Final = 0.02
#: Halvings of an interval: by then it is below the rounding of a float32.
_HALVINGS: Final = 25
#: Halvings of epsilon for an attack of many steps.
_SIZES: Final = 8


@dataclass(frozen=True, eq=False)
class Perturbation(Pictured):
    """A picture, and the nearest one found that is given another class.

    Args:
        norm: that was to be small.
        picture, changed: (C, H, W) in 0..1.
        l2: root of the sum of the squared changes, of all pixels and channels.
        largest: change of a pixel, the norm l_inf.
        method: that found it.
        before, after: evidence for the class that the network gives, of either picture.
    """

    norm: Literal["l2", "linf"]
    picture: Tensor
    changed: Tensor
    l2: float
    largest: float
    method: str
    before: Explanation
    after: Explanation

    @property
    def classes(self) -> tuple[int, int]:
        """The class before and after."""
        return self.before.predictions[0][0].category, self.after.predictions[0][0].category

    def to_dict(self) -> dict[str, Any]:
        """The figures, for JSON."""
        return {
            "norm": self.norm,
            "l2": self.l2,
            "linf": self.largest,
            "method": self.method,
            "classes": list(self.classes),
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
        }


@checked
def smallest_perturbation(
    model: torch.nn.Module,
    picture: Tensor,
    *,
    norm: Literal["l2", "linf"] = "l2",
    target: int | None = None,
    prepare: Prepare | None = None,
    candidates: int = 10,
    steps: int = 50,
    explain: Method = saliency,
) -> Perturbation:
    """The smallest change of a picture found that makes the network give it another class.

    DeepFool steps over the boundary of the nearest of the likeliest classes, as if the network were linear, until the
    class has changed. Then the change is scaled down by bisection as long as the class stays changed; for ``"linf"``
    the smallest epsilon with which projected gradient descent succeeds, again by bisection, is taken if that is less.
    There may be even smaller changes; the search doesn't prove that there are none.

    Args:
        model: a classifier, (N, C, H, W) to (N, K).
        picture: (C, H, W) in 0..1; the changed one is kept there too.
        norm: root of the sum of squares, or the largest change of a pixel.
        target: the class to be predicted; any other class by default.
        prepare: makes the network's input of pictures in 0..1: its normalisation, or all inputs of a network that takes
            several; by default that is the input.
        candidates: number of likeliest classes to compare.
        steps: largest number of DeepFool's steps.
        explain: makes the evidence before and after, as :func:`striate.explain.grad_cam`.

    Raises:
        ExplainError: no classifier, one class only, a class out of range or seen already, or no change found.

    Source: Moosavi-Dezfooli, Fawzi & Frossard, "DeepFool: a simple and accurate method to fool deep neural networks"
    (2016), algorithm 2 and section 3.3.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
    >>> network[1].weight.data[:] = torch.tensor([[3.0, 0, 0, 0], [0, 4, 0, 0]])
    >>> found = smallest_perturbation(network, torch.tensor([[[0.5, 0.25], [0.5, 0.5]]]))
    >>> found.classes, round(found.l2, 4)  # the boundary 3 a = 4 b lies (1.5 - 1) / 5 away
    ((0, 1), 0.1)
    """
    if norm not in ("l2", "linf"):
        raise ExplainError("norm", f"got {norm!r}", "needed 'l2' or 'linf'")
    check_picture(picture)
    home = home_of(model)
    source = picture.detach().float()[None].to(picture.device if home is None else home.device)
    with probing(model) as probe:
        logits = logits_of(probe(prepared(model, source, prepare)))
        seen, count = int(logits.argmax(1)), logits.shape[1]
        if count < 2 or (target is not None and (not 0 <= target < count or target == seen)):
            got = f"class {target} of {count}" + (", which it sees already" if target == seen else "")
            raise ExplainError("target", f"got {got}", "needed another class of a classifier")
        others = [k for k in logits[0].argsort(descending=True).tolist() if k != seen][: max(1, candidates)]

        def fooled(pictures: Tensor) -> bool:
            with torch.no_grad():
                given = logits_of(probe(prepared(model, pictures, prepare)))[0].float()
            # At the boundary two classes have equal scores, which happens easily in half precision.
            alone = given[seen if target is None else target]
            rest = given[[k for k in range(count) if k != (seen if target is None else target)]].max()
            return bool(rest > alone if target is None else rest < alone)

        far = _deep_fool(probe, source, others if target is None else [target], norm, prepare, steps, fooled)
        near = _nearest(source, far, fooled)
        method = "DeepFool"
        if norm == "linf" and target is None:
            closer = _closest_by_pgd(model, source, seen, float((near - source).abs().max()), prepare, fooled)
            if closer is not None:
                near, method = closer, "projected gradient descent"
    change = near - source
    before, after = (
        made_by(explain, model, prepared(model, each, prepare), target=None).on(each.cpu()) for each in (source, near)
    )
    return Perturbation(
        norm,
        source[0].cpu(),
        near[0].cpu(),
        float(change.double().norm()),
        float(change.abs().max()),
        method,
        before,
        after,
    )


def _deep_fool(
    probe: Probe,
    source: Tensor,
    others: list[int],
    norm: str,
    prepare: Prepare | None,
    steps: int,
    fooled: Callable[[Tensor], bool],
) -> Tensor:
    place = source
    for _ in range(steps):
        point = place.clone().requires_grad_()
        logits = logits_of(probe(prepared(probe.model, point, prepare)))[0].float()
        best = int(logits.argmax())
        moves = []
        for other in others:
            gap = logits[other] - logits[best]
            (slope,) = torch.autograd.grad(gap, point, retain_graph=True)
            # Pixels that are already black or white don't change further.
            slope = slope.where(((place > 0) | (slope > 0)) & ((place < 1) | (slope < 0)), 0.0)
            # The dual norm of the slope is how fast the best direction of that length closes the gap.
            dual = float(slope.norm() if norm == "l2" else slope.abs().sum())
            if dual > 0:
                direction = slope / dual if norm == "l2" else slope.sign()
                moves.append(((float(-gap.detach()) + 1e-6) / dual, direction))
        if not moves:
            break
        distance, direction = min(moves, key=lambda move: abs(move[0]))
        place = (place + (1 + _OVERSHOOT) * distance * direction).clamp(0, 1)
        if fooled(place):
            return place
    raise ExplainError(
        probe.name,
        f"no change found in {steps} steps that makes it see another class",
        "needed gradients that lead there",
        "give more steps, another norm or target",
    )


def _nearest(source: Tensor, far: Tensor, fooled: Callable[[Tensor], bool]) -> Tensor:
    """The picture nearest to the source, on the way to one that fools the network, that still does."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if fooled(source + middle * (far - source)) else (middle, high)
    return source + high * (far - source)


class _Asked(torch.nn.Module):
    """The network as one of pictures in 0..1."""

    def __init__(self, model: torch.nn.Module, prepare: Prepare | None) -> None:
        super().__init__()
        self.model, self.prepare = model, prepare

    def forward(self, pictures: Tensor) -> Any:
        args, kwargs = arguments_of(self.model, prepared(self.model, pictures, self.prepare))
        return self.model(*args, **kwargs)


def _closest_by_pgd(
    model: torch.nn.Module,
    source: Tensor,
    seen: int,
    largest: float,
    prepare: Prepare | None,
    fooled: Callable[[Tensor], bool],
) -> Tensor | None:
    """The attack with the smallest epsilon that succeeds below the largest change known; None if there is none."""
    asked = _Asked(model, prepare)
    low, high, best = 0.0, min(largest, 1.0), None
    labels = torch.tensor([seen])
    for _ in range(_SIZES):
        middle = (low + high) / 2
        changed = pgd(asked, source, labels, middle)
        if fooled(changed):
            high, best = middle, changed
        else:
            low = middle
    return best
