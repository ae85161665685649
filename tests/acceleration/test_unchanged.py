"""Calls that pass by Dynamo's guards: only while nothing that the guards read has changed."""

from __future__ import annotations

import collections
import copy
import enum
import gc
import types
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import source as sources

import striate
from cases import slow_but
from striate.acceleration.guards import objects, shortcuts
from striate.acceleration.guards.unchanged import Read, Unchanged
from striate.acceleration.model import accelerated
from striate.engine.llvm.codegen.isa import host

pytestmark = pytest.mark.skipif(host() is None, reason="there are no kernels for this machine")


@pytest.fixture(autouse=True)
def _forgotten_afterwards() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def taken(model: nn.Module, *inputs: Any, **named: Any) -> bool:
    """Whether a call would pass by the guards."""
    call = accelerated(model)
    assert call is not None
    return call._shortcuts is not None and call._shortcuts.find(inputs, named) is not None


def warmed(model: nn.Module, *inputs: Any, **named: Any) -> nn.Module:
    """The model accelerated, and called until its guards are passed by."""
    striate.accelerate(model, quiet=True)
    for _ in range(3):
        model(*inputs, **named)
    return model


#: What models below read besides themselves. A module of its own, as a user's would be.
SETTINGS = types.ModuleType("settings")
exec(
    """
FACTOR = 2.0
TABLE = {"factor": 2.0}
def scaled(x, by=2.0, *, more=1.0):
    return x * by * more
""",
    vars(SETTINGS),
)


class Mode(enum.Enum):
    PLAIN = 1
    DOUBLE = 2


@dataclass
class Config:
    factor: float = 2.0
    inner: Any = None


class Slotted:
    __slots__ = ("factor",)

    def __init__(self) -> None:
        self.factor = 2.0


class Base(nn.Module):
    kind = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)


class Reading(Base):
    """Reads one thing, told by a function of model and input."""

    def __init__(self, read: Callable[[Any, Tensor], Tensor], **attributes: Any) -> None:
        super().__init__()
        self.read = read
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self, self.layer(x))


def closure(factor: float) -> tuple[Callable[[Any, Tensor], Tensor], Callable[[Any], None]]:
    def read(model: Any, x: Tensor) -> Tensor:
        return x * factor

    def change(model: Any) -> None:
        nonlocal factor
        factor = 5.0

    return read, change


def counted(x: Tensor) -> Tensor:
    return x * counted.factor  # type: ignore[attr-defined]


def _set(owner: Any, name: str, value: Any) -> Callable[[Any], None]:
    return lambda model: setattr(owner(model) if callable(owner) else owner, name, value)


#: What is read, with attributes of the model, and what changes it. All of these can be watched.
CHANGES: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Any]]] = {
    "attribute": (lambda: Reading(lambda m, x: x * m.factor, factor=2.0), lambda m: setattr(m, "factor", 5.0)),
    "attribute deleted": (
        lambda: Reading(lambda m, x: x * (m.factor if hasattr(m, "factor") else 7.0), factor=2.0),
        lambda m: delattr(m, "factor"),
    ),
    "class attribute": (lambda: Reading(lambda m, x: x * m.kind), lambda m: setattr(m, "kind", 5.0)),
    "attribute of the class": (lambda: Reading(lambda m, x: x * m.kind), lambda m: setattr(Base, "kind", 5.0)),
    "object": (
        lambda: Reading(lambda m, x: x * m.config.inner.factor, config=Config(inner=Config())),
        lambda m: setattr(m.config.inner, "factor", 5.0),
    ),
    "class of an object": (
        lambda: Reading(lambda m, x: x * m.config.factor, config=Config()),
        lambda m: setattr(m.config, "__class__", type("Other", (Config,), {"factor": property(lambda self: 5.0)})),
    ),
    "slots": (
        lambda: Reading(lambda m, x: x * m.config.factor, config=Slotted()),
        lambda m: setattr(m.config, "factor", 5.0),
    ),
    "dictionary": (
        lambda: Reading(lambda m, x: x * m.table["factor"], table={"factor": 2.0}),
        lambda m: m.table.update(factor=5.0),
    ),
    "ordered dictionary": (
        lambda: Reading(lambda m, x: x * m.table["factor"], table=collections.OrderedDict(factor=2.0)),
        lambda m: m.table.update(factor=5.0),
    ),
    "item of a list": (
        lambda: Reading(lambda m, x: x * m.items[1], items=[1.0, 2.0]),
        lambda m: m.items.__setitem__(1, 5.0),
    ),
    "length of a list": (
        lambda: Reading(lambda m, x: x * len(m.items), items=[1.0, 2.0]),
        lambda m: m.items.append(5.0),
    ),
    "list cleared": (lambda: Reading(lambda m, x: x * len(m.items), items=[1.0] * 99), lambda m: m.items.clear()),
    "enumeration": (
        lambda: Reading(lambda m, x: x * (2 if m.mode is Mode.DOUBLE else 1), mode=Mode.PLAIN),
        lambda m: setattr(m, "mode", Mode.DOUBLE),
    ),
    "global": (lambda: Reading(lambda m, x: x * SETTINGS.FACTOR), lambda m: setattr(SETTINGS, "FACTOR", 5.0)),
    "global dictionary": (
        lambda: Reading(lambda m, x: x * SETTINGS.TABLE["factor"]),
        lambda m: SETTINGS.TABLE.update(factor=5.0),
    ),
    "default": (
        lambda: Reading(lambda m, x: SETTINGS.scaled(x)),
        lambda m: setattr(SETTINGS.scaled, "__defaults__", (5.0,)),
    ),
    **{
        f"{name} of a function": (
            lambda name=name: Reading(lambda m, x: x * len(getattr(SETTINGS.scaled, name))),
            lambda m, name=name: setattr(SETTINGS.scaled, name, "another.name.that.is.longer"),
        )
        for name in ("__module__", "__name__")
    },
    "keyword default": (
        lambda: Reading(lambda m, x: SETTINGS.scaled(x)),
        lambda m: SETTINGS.scaled.__kwdefaults__.update(more=5.0),
    ),
    "function's code": (
        lambda: Reading(lambda m, x: m.function(x), function=types.FunctionType((lambda x: x * 2).__code__, globals())),
        lambda m: setattr(m.function, "__code__", (lambda x: x * 5).__code__),
    ),
    "function's attribute": (
        lambda: (setattr(counted, "factor", 2.0), Reading(lambda m, x: counted(x)))[1],
        lambda m: setattr(counted, "factor", 5.0),
    ),
    "training": (lambda: Reading(lambda m, x: x * (5.0 if m.training else 2.0)).eval(), lambda m: m.train()),
    "mode of a layer": (
        lambda: Reading(lambda m, x: x * (5.0 if m.layer.training else 2.0)).eval(),
        lambda m: m.layer.train(),
    ),
    "layer replaced": (
        lambda: Reading(lambda m, x: x),
        lambda m: setattr(m, "layer", nn.Sequential(nn.Linear(4, 4), nn.ReLU())),
    ),
    "parameter replaced": (
        lambda: Reading(lambda m, x: x),
        lambda m: setattr(m.layer, "weight", nn.Parameter(torch.ones(4, 4))),
    ),
    "parameter that requires no gradient": (
        lambda: Reading(lambda m, x: x * (2.0 if m.layer.weight.requires_grad else 5.0)),
        lambda m: m.layer.weight.requires_grad_(False),
    ),
    "another shape as data": (
        lambda: Reading(lambda m, x: x * len(m.p), p=nn.Parameter(torch.ones(2, 2))),
        lambda m: setattr(m.p, "data", m.p.data.view(4, 1)),
    ),
    "hook": (
        lambda: Reading(lambda m, x: x),
        lambda m: m.layer.register_forward_hook(lambda module, given, result: result * 5),
    ),
    "method of the class": (
        lambda: Reading(lambda m, x: x),
        lambda m: setattr(Reading, "forward", lambda self, x: self.layer(x) * 5),
    ),
    "method of the model": (
        lambda: Reading(lambda m, x: x),
        lambda m: setattr(m, "forward", lambda x: m.layer(x) * 5),
    ),
}


@pytest.mark.parametrize("name", slow_but(CHANGES, list(CHANGES)[::2]))
def test_a_change_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Base, "kind", Base.kind)
    monkeypatch.setattr(Reading, "forward", Reading.forward)
    monkeypatch.setattr(SETTINGS, "FACTOR", SETTINGS.FACTOR)
    monkeypatch.setitem(SETTINGS.TABLE, "factor", 2.0)
    for attribute in ("__module__", "__name__"):
        monkeypatch.setattr(SETTINGS.scaled, attribute, getattr(SETTINGS.scaled, attribute))
    monkeypatch.setattr(SETTINGS.scaled, "__defaults__", (2.0,))
    monkeypatch.setitem(SETTINGS.scaled.__kwdefaults__, "more", 1.0)
    make, change = CHANGES[name]
    x, model = torch.randn(2, 4), make()
    warmed(model, x)
    assert taken(model, x), accelerated(model)._shortcuts.refusal
    before = model(x)
    change(model)
    assert not taken(model, x)
    after = model(x)
    torch.testing.assert_close(after, model._call_impl(x))
    assert before.shape != after.shape or not torch.equal(before, after) or "deleted" in name or "gradient" in name
    for _ in range(3):
        model(x)
    torch.testing.assert_close(model(x), model._call_impl(x))


def test_a_closure_is_watched() -> None:
    read, change = closure(2.0)
    x, model = torch.randn(2, 4), Reading(read)
    warmed(model, x)
    assert taken(model, x)
    change(model)
    assert not taken(model, x)
    torch.testing.assert_close(model(x), model._call_impl(x))


def test_other_names_of_a_python_module_may_change() -> None:
    x, model = torch.randn(2, 4), Reading(lambda m, x: x * SETTINGS.FACTOR)
    warmed(model, x)
    SETTINGS.OTHER = 1  # type: ignore[attr-defined]
    assert taken(model, x)
    del SETTINGS.OTHER
    assert taken(model, x)


@pytest.mark.parametrize(
    "other",
    [
        lambda x: torch.randn(3, 4),
        lambda x: x.double(),
        lambda x: x.requires_grad_(),
        lambda x: torch.randn(4, 2).t(),
        lambda x: torch.randn(3, 4)[1:],
        lambda x: nn.Parameter(x),
        lambda x: x.as_subclass(type("Own", (Tensor,), {})),
    ],
    ids=["shape", "dtype", "gradient", "strides", "offset", "parameter", "subclass"],
)
def test_other_inputs_are_guarded(other: Callable[[Tensor], Tensor]) -> None:
    x, model = torch.randn(2, 4), Reading(lambda m, x: x)
    warmed(model, x)
    given = other(x.clone())
    assert taken(model, x)
    assert not taken(model, given)


def test_modes_are_guarded() -> None:
    x, model = torch.randn(2, 4), Reading(lambda m, x: x)
    warmed(model, x)
    for mode in (torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu"), lambda: torch.device("cpu")):
        with mode():
            call = accelerated(model)
            assert not call._shortcuts._known[next(iter(call._shortcuts._known))][0].unchanged.same([x])
    with torch.autograd.graph.save_on_cpu():
        assert not taken(model, x)


def test_who_is_who_among_tensors_is_guarded() -> None:
    class Adding(Base):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.layer(x) + (0 if x is y else y)

    x, y, model = torch.randn(4, 4), torch.randn(4, 4), Adding()
    warmed(model, x, y)
    assert taken(model, x, y)
    assert not taken(model, x, x)
    torch.testing.assert_close(model(x, x), model._call_impl(x, x))
    weight = model.layer.weight
    assert not taken(model, weight, y)
    torch.testing.assert_close(model(weight, y), model._call_impl(weight, y))


def test_arguments_of_all_kinds() -> None:
    class Named(Base):
        def forward(self, x: dict[str, Any], *, factor: int = 1, name: str | None = None) -> Any:
            y = self.layer(x["image"]) * factor
            return {"result": y, "name": name, "both": (y, x["more"][0])}

    x, model = {"image": torch.randn(2, 4), "more": [torch.randn(1)]}, Named()
    warmed(model, x, factor=3, name="one")
    assert taken(model, x, factor=3, name="one")
    assert not taken(model, x, factor=4, name="one")
    assert not taken(model, x, factor=3, name="two")
    assert not taken(model, x | {"further": 1}, factor=3, name="one")
    assert not taken(model, x, factor=3.0, name="one")
    assert not taken(model, x, factor=True, name="one")
    result = model(x, factor=3, name="one")
    assert result["name"] == "one"
    torch.testing.assert_close(result["result"], model.layer(x["image"]) * 3)


def test_what_cannot_be_watched_is_guarded() -> None:
    class Ranged(Base):
        def __init__(self) -> None:
            super().__init__()
            self.names = {"one"}

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * (2.0 if "two" in self.names else 1.0)

    x, model = torch.randn(2, 4), Ranged()
    warmed(model, x)
    assert not taken(model, x)
    model.names.add("two")
    torch.testing.assert_close(model(x), model._call_impl(x))


def test_a_model_that_is_captured_in_pieces_is_guarded() -> None:
    class Broken(Base):
        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(x)
            torch._dynamo.graph_break()
            return x * 2

    x, model = torch.randn(2, 4), Broken()
    warmed(model, x)
    assert not taken(model, x)


def test_side_effects_happen_at_every_call() -> None:
    class Counting(Base):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.layer(x) * self.calls

    x, model = torch.randn(2, 4), Counting()
    warmed(model, x)
    for number in range(4, 12):
        torch.testing.assert_close(model(x), model.layer(x) * number)
        assert model.calls == number


def test_a_stance_is_followed() -> None:
    x, model = torch.randn(2, 4), Reading(lambda m, x: x)
    warmed(model, x)
    with torch.compiler.set_stance("force_eager"):
        assert not taken(model, x)
    torch._dynamo.reset()
    torch.testing.assert_close(model(x), model._call_impl(x))


def test_several_kinds_of_inputs_share_one_look() -> None:
    model = Reading(lambda m, x: x)
    inputs = [torch.randn(size, 4) for size in (2, 3, 5)]
    for _ in range(4):
        warmed(model, *inputs[:1])
        for x in inputs:
            model(x)
    found = {id(each.unchanged) for each, _ in accelerated(model)._shortcuts._known.values()}
    assert all(taken(model, x) for x in inputs)
    assert len(found) < len(inputs)


def test_copies_have_their_own() -> None:
    x, model = torch.randn(2, 4), Reading(lambda m, x: x * m.factor, factor=2.0)
    warmed(model, x)
    other = warmed(copy.deepcopy(model), x)
    other.factor = 5.0
    assert taken(model, x)
    assert not taken(other, x)
    torch.testing.assert_close(other(x), other._call_impl(x))


def test_the_model_goes_when_nobody_has_it() -> None:
    x, model = torch.randn(2, 4), Reading(lambda m, x: x)
    warmed(model, x)
    assert taken(model, x)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_without_a_python_that_tells_of_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "tells", lambda isa: False)
    x, model = torch.randn(2, 4), Reading(lambda m, x: x)
    warmed(model, x)
    assert not taken(model, x)
    torch.testing.assert_close(model(x), model._call_impl(x))


def test_this_python_tells_of_writes() -> None:
    isa = host()
    assert isa is not None
    assert objects.tells(isa)


@pytest.mark.parametrize(("place", "other"), [("_VERSION", 16), ("_TYPE", 0)])
def test_another_layout_of_objects_is_noticed(place: str, other: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # A dictionary's length, or an object's reference count, don't tell of writes.
    monkeypatch.setattr(objects, place, other)
    isa = host()
    assert isa is not None
    assert not objects.tells.__wrapped__(isa)


def test_captures_that_dynamo_has_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = shortcuts._debug_get_cache_entry_list
    gone = types.SimpleNamespace(code=None, guard_manager=None)
    monkeypatch.setattr(shortcuts, "_debug_get_cache_entry_list", lambda code: [gone, *entries(code)])
    x, model = torch.randn(2, 4), Reading(lambda m, x: x)
    warmed(model, x)
    assert taken(model, x)


def test_a_mistake_of_its_own_fails_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(shortcuts, "described", fails)
    x, model = torch.randn(2, 4), Reading(lambda m, x: x)
    with pytest.warns(UserWarning, match="ZeroDivisionError"):
        warmed(model, x)
    torch.testing.assert_close(model(x), model._call_impl(x))


class Holder:
    def __init__(self) -> None:
        self.items: list[Any] = [object()]
        self.config = Slotted()
        self.config.factor = object()


@pytest.mark.parametrize("owner", ["items", "config"])
def test_reused_memory_counts_as_a_change(owner: str) -> None:
    """A new object may lie where the old one was, so that nothing but the object tells them apart."""
    holder = Holder()
    place = sources.AttrSource(sources.LocalSource("module"), owner)
    kind = "SEQUENCE_LENGTH" if owner == "items" else "HASATTR"
    watched = Unchanged([Read(kind, place, None, "factor")], {"module": holder}, {}, [], [])
    assert watched.same([])
    for make in (lambda: None, object):
        if owner == "items":
            holder.items[0] = make()
        else:
            holder.config.factor = make()
    assert not watched.same([])
