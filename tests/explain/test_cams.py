"""Class activation maps: against torchcam, captum, closed forms and each other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from explained_networks import Nested, Reused
from torch import Tensor, nn

from striate import explain
from striate.errors import ExplainError

# Not Grad-CAM++, whose divisor torchcam 0.5.0 applies to a copy of what it goes on with, and not Score-CAM,
# where it scales maps before enlarging them: these stand against their formulas below.
PEERS = {
    "cam": "CAM",
    "grad_cam": "GradCAM",
    "x_grad_cam": "XGradCAM",
    "layer_cam": "LayerCAM",
}

ALL = (*PEERS, "grad_cam_plus_plus", "score_cam", "eigen_cam")


@pytest.mark.formula("S27")
@pytest.mark.usefixtures("peer")  # torchcam imports torchvision
@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("target", [0, 3])
def test_torchcam_agrees(name: str, target: int) -> None:
    methods = pytest.importorskip("torchcam.methods")
    model, x = Nested().double().eval(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    model.fc.weight.data *= 1e4  # torchcam adds 1e-8 to what it divides by
    options = {"fc_layer": "fc"} if name == "cam" else {"input_shape": (3, 16, 16)}
    with getattr(methods, PEERS[name])(model, "act", **options) as peer:
        scores = model(x.clone())
        peers = peer(target, normalized=False) if name == "cam" else peer(target, scores, normalized=False)
    ours = getattr(explain, name)(model, x, target, "act").values
    if name != "cam":
        ours, theirs = ours.clamp_min(0), peers[0].detach().clamp_min(0)
    else:
        theirs = peers[0].detach()
    assert theirs.any()
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_captums_grad_cam_agrees() -> None:
    captum = pytest.importorskip("captum.attr")
    model, x = Nested().double().eval(), torch.randn(3, 3, 16, 16, dtype=torch.float64)
    for layer in ("stem.1", "last"):
        module = model.get_submodule(layer)
        model.act.inplace = model.stem[2].inplace = False
        expected = captum.LayerGradCam(model, module).attribute(x, target=[0, 1, 4])
        model.act.inplace = model.stem[2].inplace = True
        assert torch.allclose(explain.grad_cam(model, x, [0, 1, 4], layer).values, expected[:, 0].detach(), atol=1e-12)


def test_cam_is_grad_cam_on_networks_with_global_average_pooling() -> None:
    model, x = Nested().double().eval(), torch.randn(4, 3, 16, 16, dtype=torch.float64)
    cam, grad = explain.cam(model, x), explain.grad_cam(model, x)
    assert cam.layer == grad.layer == "act"
    assert torch.allclose(cam.values, 64 * grad.values)
    assert cam.map.shape == grad.map.shape == (4, 16, 16)
    assert torch.allclose(
        cam.values.mean((1, 2)) + model.fc.bias.detach()[list(cam.classes)], torch.tensor(cam.scores).double()
    )
    large = F.interpolate(cam.values.clamp_min(0)[:, None], (16, 16), mode="bilinear")[:, 0]
    assert torch.allclose(large, 64 * grad.map)


def test_cam_refuses_other_networks() -> None:
    class Maximum(Nested):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.act(self.last(self.stem(x))).amax((2, 3)))

    with pytest.raises(ExplainError, match=r"aren't a linear layer of the means of act's maps; .*grad_cam takes any"):
        explain.cam(Maximum(), torch.randn(1, 3, 16, 16))
    with pytest.raises(ExplainError, match="needed a class"):
        explain.cam(Nested(), torch.randn(1, 3, 16, 16), lambda output: output[:, 0], "act")


def test_formulas_with_loops() -> None:
    model, x = Nested().double().eval(), torch.randn(1, 3, 8, 8, dtype=torch.float64)
    with explain.probing(model, "last") as probe:
        score = probe(x)[0, 2]
        maps, gradient = probe["last"][0].detach(), probe.gradient(score, "last")[0]
    channels, height, width = maps.shape
    sums = {name: torch.zeros(height, width, dtype=torch.float64) for name in ("grad", "plus", "x", "layer")}
    for k in range(channels):
        a, g = maps[k], gradient[k]
        total = sum(float(a[i, j]) for i in range(height) for j in range(width))
        plus = above = 0.0
        for i in range(height):
            for j in range(width):
                below = 2 * g[i, j] ** 2 + total * g[i, j] ** 3
                plus += float(g[i, j] ** 2 / below * max(g[i, j], 0)) if below != 0 else 0.0
                above += float(g[i, j] * a[i, j])
        sums["grad"] += a * g.sum() / (height * width)
        sums["plus"] += a * plus
        sums["x"] += a * above / total
        sums["layer"] += a * g.clamp_min(0)
    names = {"grad": "grad_cam", "plus": "grad_cam_plus_plus", "x": "x_grad_cam", "layer": "layer_cam"}
    for short, name in names.items():
        found = getattr(explain, name)(model, x, 2, "last")
        assert torch.allclose(found.values[0], sums[short]), name


def test_eigen_cam_is_the_strongest_direction() -> None:
    model, x = Nested().double().eval(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    found = explain.eigen_cam(model, x, layer="act")
    with explain.probing(model, "act") as probe:
        probe(x)
        rows = probe["act"].detach().flatten(2).transpose(1, 2)
    for image in range(2):
        # the largest eigenvector of A^T A, by another way
        values, vectors = torch.linalg.eigh(rows[image].T @ rows[image])
        projected = rows[image] @ vectors[:, -1]
        projected = projected * projected.sum().sign()
        assert torch.allclose(found.values[image].flatten(), projected)
        assert float((projected**2).sum()) == pytest.approx(float(values[-1]))
    assert torch.equal(explain.eigen_cam(model, x, 0, "act").map, explain.eigen_cam(model, x, 4, "act").map)


def test_score_cam_against_one_masked_image_after_another() -> None:
    model, x = Nested().double().eval(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        inner = model.stem(x)
        maps = model.last(inner + model.body["block"](inner)).relu()
        for image in range(2):
            scores = []
            for channel in range(12):
                mask = F.interpolate(maps[image, channel][None, None], (16, 16), mode="bilinear")[0, 0]
                spread = mask.max() - mask.min()
                mask = (mask - mask.min()) / spread if spread > 0 else torch.zeros_like(mask)
                scores.append(model(x[image : image + 1] * mask)[0, 3])
            expected = torch.einsum("k,khw->hw", torch.stack(scores).softmax(0), maps[image])
            found = explain.score_cam(model, x, 3, "act", batch_size=5)
            assert torch.allclose(found.values[image], expected)


def test_calls_of_a_reused_layer_have_their_own_maps() -> None:
    model, x = Reused().eval(), torch.randn(1, 4, 8, 8)
    maps = [explain.grad_cam(model, x, 0, f"conv@{k}").values for k in (1, 2, 3)]
    assert torch.equal(explain.grad_cam(model, x, 0, "conv").values, maps[2])
    assert not torch.allclose(maps[0], maps[2])


def test_negative_evidence_is_told_not_drawn() -> None:
    model = Nested().eval()
    nn.init.constant_(model.fc.weight, -1.0)
    with pytest.warns(explain.ExplainWarning, match="all evidence in act speaks against the target"):
        found = explain.grad_cam(model, torch.randn(1, 3, 16, 16))
    assert not found.map.any()
    assert (found.values <= 0).all()
    assert found.values.any()


def test_constant_and_zero_maps_are_finite() -> None:
    model = Nested().eval()
    for weights in (model.last.weight, model.last.bias):
        nn.init.zeros_(weights)
    for name in ALL:
        with pytest.warns(explain.ExplainWarning):
            assert not getattr(explain, name)(model, torch.randn(1, 3, 16, 16), 0, "act").map.any()


def test_a_batch_is_its_images() -> None:
    model, x = Nested().double().eval(), torch.randn(5, 3, 16, 16, dtype=torch.float64)
    for name in ALL:
        whole = getattr(explain, name)(model, x, [0, 1, 2, 3, 4], "act")
        for image in range(5):
            alone = getattr(explain, name)(model, x[image], image, "act")
            assert torch.allclose(whole.map[image], alone.map[0], atol=1e-9), name
            assert whole.target_of(image) == alone.target_of(0) == f"class {image}"
