"""Ten networks that stretch what a network is: each of their numbers can be asked for, and nothing is logged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from striate.studio.gradients import Backward, Target
from striate.studio.recording import record
from striate.studio.server import Studio
from striate.studio.subject import of_module
from striate.studio.workspace import Workspace


class Tied(nn.Module):
    """A layer at two places, a weight that two layers own, and the same weight the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 5), nn.Linear(3, 5)
        self.other.weight = self.one.weight
        self.twice = nn.Sequential(self.conv, nn.ReLU(), self.conv)

    def forward(self, x: Tensor) -> Tensor:
        features = self.twice(self.conv(x)).mean((2, 3))
        return F.linear(self.one(features) + self.other(features), self.one.weight.t())


class Found(NamedTuple):
    boxes: Tensor
    scores: Tensor | None


class Nested(nn.Module):
    """Outputs in dictionaries, tuples and lists, some of them nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> dict[str, Any]:
        maps = self.body(x)
        pooled = maps.amax((2, 3))
        return {
            "found": [Found(self.head(pooled), None), Found(pooled, pooled.sum(1))],
            "levels": {0: maps, "up": F.interpolate(maps, scale_factor=2)},
            "same": maps,
            "none": None,
            "count": len(maps),
        }


class Asked(nn.Module):
    """A picture and a question, one of them whole numbers, and an input that may be missing."""

    def __init__(self) -> None:
        super().__init__()
        self.look, self.words = nn.Conv2d(3, 8, 4, 4), nn.Embedding(11, 8)

    def forward(self, question: Tensor, picture: Tensor, mask: Tensor | None = None) -> Tensor:
        keys = self.look(picture).flatten(2)
        weights = torch.einsum("ntc,ncp->ntp", self.words(question), keys)
        if mask is not None:
            weights = weights.masked_fill(mask, -torch.inf)
        return torch.einsum("ntp,ncp->ntc", weights.softmax(-1), keys)


class Plain(nn.Module):
    """No layer, and operators that gather, sort, add up along an axis and cut into patches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(12, 12) - 0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        patches = F.unfold(x, 2, stride=2)
        mixed = (self.weight @ patches).cumsum(-1)
        folded = F.fold(mixed, x.shape[2:], 2, stride=2)
        best, where = mixed.topk(3, 1)
        again = mixed.gather(1, where).sort(-1, descending=True).values
        spread = torch.zeros_like(mixed).scatter_add(1, where, best)
        return folded, again, spread, torch.where(folded > 0, folded, folded.expm1()), where


class Nothing(nn.Module):
    """Maps of no positions, of no channels and of no pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.conv(x)
        none = maps[:, :, :, :0]
        kept = maps.flatten()[maps.flatten() > 1e9]
        return (
            maps.relu(),
            self.conv(x[:0]),
            none.sum(),
            kept * 2,
            maps[:0].mean((2, 3)),
            torch.cat([none, maps], 3),
        )


class Choosy(nn.Module):
    """Refuses dark pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if float(x.detach().mean()) < 0.1:
            raise RuntimeError("too dark\nin two lines")
        return self.conv(x).mean((2, 3))


class Spectral(nn.Module):
    """Multiplies in the frequency domain."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 8, 5, dtype=torch.complex64))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        spectrum = torch.fft.rfft2(x) * self.weight
        parts = torch.view_as_real(spectrum)
        return torch.fft.irfft2(spectrum.conj()), parts.square().sum(-1).sqrt(), spectrum.angle(), spectrum.sum()


class Overwriting(nn.Module):
    """Writes into everything: its input, parts, masks, its own buffer, and where an operator is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.register_buffer("kept", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        x.clamp_(0.1, 0.9)
        y = self.conv(x).relu_()
        y[:, 0] = x[:, 1]
        y[:, 1].masked_fill_(y[:, 2] > 0, 0.5)
        y.transpose(2, 3)[..., 0].mul_(2.0)
        self.kept.lerp_(y.detach().mean((0, 2, 3)), 0.5)
        y.index_put_((torch.tensor([0]), torch.tensor([3])), torch.tensor(1.0))
        with torch.no_grad():
            torch.add(y.detach(), 1.0, out=torch.empty_like(y))
        return y.add_(self.kept[:, None, None])


class Remembering(nn.Module):
    """Reads a map's rows with an LSTM and a cell in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm = nn.Conv2d(3, 4, 3), nn.LSTM(6, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.cell = nn.GRUCell(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows, (state, _) = self.lstm(self.conv(x).mean(1))
        hidden = torch.zeros(len(x), 3)
        for row in rows.unbind(1):
            hidden = self.cell(row, hidden)
        return torch.cat([hidden, state.sum(0)], 1)


class Energy(nn.Module):
    """One number, of a loss with logarithms that overflow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.conv(x).flatten(1) * 1e4
        return (logits.exp().log() - logits).nan_to_num(posinf=1.0, neginf=-1.0).mean() + logits.double().logsumexp(
            1
        ).std(correction=0)


def stranger() -> dict[str, tuple[nn.Module, Any]]:
    """Each with inputs that it takes."""
    torch.manual_seed(5)
    picture = torch.rand(1, 3, 8, 8)
    built = (
        Tied(), Nested(), Plain(), Nothing(), Choosy(), Spectral(), Overwriting(), Remembering(), Energy(),
    )  # fmt: skip
    found: dict[str, tuple[nn.Module, Any]] = {type(each).__name__: (each, picture) for each in built}
    asked = {"question": torch.tensor([[1, 4, 9]]), "picture": picture, "mask": torch.rand(1, 3, 4) > 0.7}
    found["Asked"] = (Asked(), asked)
    return found


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sees that no error is logged, which a user would find as a traceback in the terminal."""
    started = Studio.start

    def start(self: Studio) -> Studio:
        found = started(self)
        logging.getLogger("uvicorn").addHandler(caplog.handler)  # whose messages pytest doesn't see by itself
        return found

    monkeypatch.setattr(Studio, "start", start)
    with caplog.at_level(logging.WARNING):
        yield
    logging.getLogger("uvicorn").removeHandler(caplog.handler)
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("name", list(stranger()))
def test_every_number_of_a_strange_network_can_be_asked_for(name: str, start: Callable[..., Any], quiet: None) -> None:
    client = start(*stranger()[name])
    assert client.json("/api/network")["nodes"]
    listed = client.json("/api/tensors")["tensors"]
    assert any(each["kind"] == "activation" for each in listed)
    status, content = client.ask("/api/gradients")
    assert status in (200, 422), content
    for each in listed:
        number, shape = each["value"], each["shape"]
        client.numbers(f"/api/tensor/{number}", size=32)
        assert client.ask(f"/api/gradients/{number}/maps")[0] in (200, 404, 422)
        if 0 in shape:
            continue
        for place in {tuple(0 for _ in shape), tuple(length - 1 for length in shape)}:
            query = {"at": ",".join(map(str, place))} if shape else {}
            told = client.json(f"/api/value/{number}", **query)
            assert told["check"] is None or told["check"]["holds"], (each, told["check"])
            for what in ("field", "strength"):
                status, content = client.ask(f"/api/value/{number}/{what}", **query)
                assert status in (200, 422), content
    client.studio.stop()


def test_gradients_go_back_through_an_lstm() -> None:
    """PyTorch computes it by other operators where gradients are wanted."""
    model, inputs = stranger()["Remembering"]
    model.eval()
    recording = record(model, inputs)
    found = Backward(model, inputs, recording).of(Target(recording.outputs, (0, 4)))
    own = inputs.clone().requires_grad_()
    model(own)[0, 4].backward()
    source = recording.number_of(recording.trace.inputs["x"])
    torch.testing.assert_close(found.of[source], own.grad)
    name = "lstm.weight_ih_l0"
    weight = recording.number_of(recording.trace.parameters[name])
    torch.testing.assert_close(found.of[weight], model.get_parameter(name).grad)


def test_a_picture_that_the_network_refuses_is_one_line(quiet: None, start: Callable[..., Any]) -> None:
    subject = of_module(Choosy().eval())
    inputs = {"light": torch.rand(1, 3, 8, 8), "dark": torch.zeros(1, 3, 8, 8)}
    pictures = [subject.given(each, name, id=name) for name, each in inputs.items()]
    client = type(start(nn.ReLU(), torch.rand(1, 1, 2, 2)))(Studio(Workspace(subject, pictures)).start())
    assert client.json("/api/network", picture="light")["nodes"]
    for path in ("/api/network", "/api/tensors", "/api/value/0", "/api/gradients", "/api/network/fields"):
        status, content = client.ask(path, picture="dark", at="0,0,0,0")
        assert status == 422, content
        assert b"too dark" in content
        assert b"\\n" not in content
    assert client.json("/api/network", picture="light")["nodes"]  # and the next one is answered as before
    client.studio.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(stranger()))
def test_pages_of_strange_networks_hold(name: str, start: Callable[..., Any], browser: Any, quiet: None) -> None:
    client = start(*stranger()[name])
    browser.open(client)
    browser.wait("document.querySelector('[data-node]')")
    listed = client.json("/api/tensors")["tensors"]
    shown = [each for each in listed if each["kind"] == "activation" and 0 not in each["shape"]]
    for each in {each["name"]: each for each in shown}.values():  # of a layer that is called again the last time
        at = ",".join(str(length // 2) for length in each["shape"])
        browser.run(f"location.hash = '#/value/{each['value']}/{at}'")
        browser.wait(
            f"document.querySelector('.value')?.dataset.value === '{each['value']}' && "
            "(document.querySelector('.value .where canvas') || document.querySelector('.where .note') || "
            "!document.querySelector('.where [aria-busy=true]'))"
        )
    browser.open(client, "#/gradients")
    browser.wait("document.querySelector('.gradients .layer, .gradients .quiet, main .note')")
    assert browser.errors() == []
    client.studio.stop()
