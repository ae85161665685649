"""From a seed to a module, written as Python source.

A module is a row of pieces. Every piece takes ``h``, images of a fixed number of channels, and leaves such images, so a
piece may be taken away, and what is left still runs. A piece is written from random numbers of its own: what it is
doesn't hang on which others there are.

What a piece reads beside its layers (numbers, flags, words, tensors, None) it reads from a random place: attributes,
objects in attributes, classes, globals, closures, defaults. For every such place, and for layers and hooks, the writer
keeps *handles*: lines that change it, for :mod:`changes` to choose from.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable, Collection

PREAMBLE = """\
import collections, contextlib, contextvars, copy, dataclasses, enum, functools, io, itertools, logging, math, random
import types, warnings
import numpy as np
import torch
import torch.nn.functional as F
from types import SimpleNamespace
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

LOG = []
OUT = io.StringIO()
COUNTS = collections.Counter()
"""


@dataclasses.dataclass(frozen=True)
class Handle:
    """A line that changes something, and what kind of change that is."""

    kind: str
    line: str


@dataclasses.dataclass
class Scope:
    """A class that is being written, and where the model has its instance."""

    name: str
    path: str
    init: list[str] = dataclasses.field(default_factory=list)
    forward: list[str] = dataclasses.field(default_factory=list)
    body: list[str] = dataclasses.field(default_factory=list)
    bases: list[str] = dataclasses.field(default_factory=list)
    watched: list[str] = dataclasses.field(default_factory=list)

    def source(self, signature: str, result: str) -> str:
        bases = ", ".join([*self.bases, "nn.Module"])
        lines = [f"class {self.name}({bases}):"]
        if self.watched:
            lines.append(f"    WATCHED = frozenset({sorted(self.watched)})")
        lines += [f"    {line}" for line in self.body]
        lines += ["    def __init__(self):", "        super().__init__()", *(f"        {line}" for line in self.init)]
        lines += [f"    def forward(self, {signature}):", *(f"        {line}" for line in self.forward)]
        return "\n".join([*lines, f"        return {result}", ""])


class Source:
    """The module of a seed, without the pieces that are dropped."""

    def __init__(self, seed: int, dropped: frozenset[str] = frozenset()) -> None:
        self.seed, self.dropped = seed, dropped
        self.draw = random.Random(f"module {seed}")
        self.channels = self.draw.choice([4, 4, 8])
        #: Whether only what inference plans have kernels for is written, so that plans are made and must be given up.
        self.simple = self.draw.random() < 0.5
        self.top: list[str] = []
        self.classes: list[str] = []
        self.handles: list[Handle] = []
        #: Where layers are, with the name of their class.
        self.layers: list[tuple[str, str]] = []
        #: The pieces, and what each has written.
        self.pieces: dict[str, str] = {}
        #: What the model does beside computing.
        self.effects: set[str] = set()
        #: Whether the model is one of PyTorch's own classes, which has the written one as its first part.
        self.wrapped = self.draw.random() < 0.1
        root = Scope("Model", "model[0]" if self.wrapped else "model")
        for place in range(self.draw.choice([1, 2, 3, 3, 4, 5, 6])):
            self.write(root, str(place))
        signature, inputs, start, result = self._ends(root)
        root.forward[:0] = start
        self.single = not inputs.count(",")
        self.classes.append(root.source(signature, result))
        self.text = "\n".join(
            [
                PREAMBLE,
                *self.top,
                "",
                *self.classes,
                f"def inputs(make, n, size):\n    return {inputs}\n",
                f"def build():\n    return {'nn.Sequential(Model())' if self.wrapped else 'Model()'}\n",
            ]
        )

    def write(self, scope: Scope, name: str, depth: int = 0) -> None:
        """Writes a piece into a class."""
        draw = random.Random(f"piece {self.seed} {name}")
        kinds = [kind for kind in PIECES if (depth < 2 or kind is not nested) and (not self.simple or kind in SIMPLE)]
        kind = draw.choices(kinds, [PIECES[each] for each in kinds])[0]
        if name in self.dropped:
            return
        self.pieces[name] = ""
        scope.forward.append(f"# {name}: {kind.__name__}")
        lines = [scope.init, scope.forward, scope.body, *([] if kind is nested else [self.top])]
        before = list(map(len, lines))
        kind(Piece(self, scope, name, draw, depth))
        self.pieces[name] = "\n".join(line for each, start in zip(lines, before, strict=True) for line in each[start:])

    def _ends(self, root: Scope) -> tuple[str, str, list[str], str]:
        """How the model is called: its signature, its inputs, what makes ``h`` of them, and what it returns."""
        draw, c = random.Random(f"ends {self.seed}"), self.channels
        x = f"make(n, {c}, size, size)"
        plain = ("x", f"(({x},), {{}})", ["h = x"])
        starts = [
            *[plain] * 12,
            ("x, y", f"(({x}, make(n, {c}, size, size, other=1)), {{}})", ["h = x + 0.5 * y"]),
            ("x, y=None", f"(({x},), {{}})", ["h = x if y is None else x + y"]),
            ("x, *, scale=1.0", f"(({x},), {{'scale': 0.75}})", ["h = x * scale"]),
            ("x, flag=False", f"(({x},), {{'flag': size % 2 == 0}})", ["h = F.relu(x) if flag else x"]),
            ("pair", f"((({x}, make({c}, 1, 1, other=1)),), {{}})", ["x, s = pair", "h = x * s"]),
            ("batch", f"(({{'x': {x}, 'n': n}},), {{}})", ["x = batch['x']", "h = x * batch['n']"]),
            ("x, *rest, **named", f"(({x}, 2), {{'a': 0.5}})", ["h = x * rest[0] + named.get('a', 0)"]),
            ("x", f"((make(n, {c}, size),), {{}})", ["h = x.unsqueeze(2)"]),
            ("x", f"((make(n, {c}, size),), {{}})", ["h = torch.stack([x, x * 0.5, x + 1], 2)"]),
            ("x", f"((make({c}, size, size),), {{}})", ["h = x[None]"]),
        ]
        signature, inputs, start = plain if self.simple or self.wrapped else draw.choice(starts)
        if draw.random() < 0.05 and not self.simple and not self.wrapped:
            root.init.insert(0, f"self.enter = nn.Embedding(7, {c})")
            self.layers.append((f"{root.path}.enter", "Embedding"))
            signature, inputs = "x", "((make(n, size, size).mul(3).long() % 7,), {})"
            start = ["h = self.enter(x).permute(0, 3, 1, 2)"]
        results = [
            *["h"] * 6,
            "h.mean((2, 3))",
            "h.flatten(1)",
            "(h, h.mean())",
            "{'out': h, 'shape': h.shape, 'none': None}",
            "[h, x, 3]",
            "(h, None, 'word', (h.sum(1), 1.5))",
            "h.transpose(1, 2)",
            "h[:, :2]",
            "h.contiguous()",
            "h.amax((2, 3))",
            "(x, h)" if signature == "x" else "h",
        ]
        result = draw.choice(results[:7] if self.simple else results)
        if draw.random() < 0.3:
            root.init.append(f"self.head = nn.Linear({c}, 3)")
            self.layers.append((f"{root.path}.head", "Linear"))
            result = draw.choice(["self.head(h.mean((2, 3)))", "self.head(h.mean((-1, -2))).softmax(1)"])
        if draw.random() < 0.05 and not self.simple:
            self.top.append("Result = collections.namedtuple('Result', 'out extra')")
            result = "Result(h, h.mean())"
        return signature, inputs, start, result


def source_of(seed: int, words: Collection[str] = ()) -> Source:
    """A seed's module, without the pieces in which some word stands."""
    source, dropped = Source(seed), frozenset[str]()
    while found := {name for name, text in source.pieces.items() if any(word in text for word in words)}:
        dropped |= found
        source = Source(seed, dropped)
    return source


@dataclasses.dataclass
class Piece:
    """A piece that is being written."""

    source: Source
    scope: Scope
    name: str
    draw: random.Random
    depth: int
    count: int = 0

    @property
    def channels(self) -> int:
        return self.source.channels

    @property
    def path(self) -> str:
        return self.scope.path

    def own(self, prefix: str) -> str:
        """A name that nobody else has."""
        self.count += 1
        return f"{prefix}{self.name}{'abcdefghijklmnopqrstuvwxyz'[self.count - 1]}"

    def init(self, *lines: str) -> None:
        self.scope.init.extend(lines)

    def do(self, *lines: str) -> None:
        self.scope.forward.extend(lines)

    def top(self, text: str) -> None:
        self.source.top.append(text)

    def change(self, kind: str, *lines: str) -> None:
        # TorchDynamo takes NumPy's numbers for arrays, which is another matter than where they stand.
        named = [("a NumPy number" if "np.float" in line else kind, line) for line in lines]
        self.source.handles.extend(itertools.starmap(Handle, named))

    def chance(self, probability: float) -> bool:
        return self.draw.random() < probability

    def layer(self, text: str, prefix: str = "f") -> str:
        """A layer of the module; how ``forward`` says it."""
        name = self.own(prefix)
        self.init(f"self.{name} = {text}")
        self.known(name, text)
        return f"self.{name}"

    def known(self, name: str, text: str) -> None:
        """Tells of a layer, so that changes find it."""
        kind = text.split("(")[0].removeprefix("nn.")
        self.source.layers.append((f"{self.path}.{name}", kind))

    # ---------------------------------------------------------------- what is read

    def number(self) -> str:
        value = self.draw.choice(["0.5", "1.5", "2", "0.75", "-1.25", "1"])
        others = ["0.25", "3", "-0.5", "0.0", "1.0", "torch.tensor(0.5)", "None", "True", "np.float64(0.5)"]
        others += ["torch.nn.Parameter(torch.tensor(1.5))", "'word'", "numbers({c}, 1, 1, seed=3)", "float('nan')"]
        return self.read(value, self.draw.sample(others, 4))

    def flag(self) -> str:
        return self.read(self.draw.choice(["True", "False"]), ["True", "False", "None", "0", "[]", "'no'"])

    def word(self, words: list[str]) -> str:
        return self.read(repr(self.draw.choice(words)), [repr(each) for each in words])

    def whole(self) -> str:
        return self.read(self.draw.choice(["0", "1", "2"]), ["0", "1", "2", "3"])

    def tensor(self) -> str:
        """A tensor that goes with images, or None."""
        made = f"torch.linspace(-1, 1, {self.channels}).view({self.channels}, 1, 1)"
        others = ["numbers({c}, 1, 1, seed=1)", "numbers({c}, 1, 1, seed=2)", "numbers(1, seed=3)", "0.5", "None"]
        return self.read(made, others)

    def optional(self) -> str:
        made = f"torch.linspace(-1, 1, {self.channels}).view({self.channels}, 1, 1)"
        return self.read(self.draw.choice(["None", made]), ["None", "numbers({c}, 1, 1, seed=1)", "0.5"])

    def read(self, value: str, others: list[str]) -> str:
        """Puts a value somewhere, keeps the ways of changing it, and returns how it is read."""
        place = self.draw.choice(PLACES)
        before = len(self.source.handles)
        n = self.own("k")
        others = [each.replace("{c}", str(self.channels)) for each in others]
        expression = place(self, n, value, others)
        # Few of many, so that no piece's handles outweigh the others'.
        made = self.source.handles[before:]
        self.source.handles[before:] = self.draw.sample(made, min(len(made), 5))
        return expression


# -------------------------------------------------------------------- places of values

Place = Callable[[Piece, str, str, list[str]], str]


def _attribute(p: Piece, n: str, value: str, others: list[str]) -> str:
    p.init(f"self.{n} = {value}")
    for other in others:
        p.change("attribute", f"{p.path}.{n} = {other}")
    p.change("attribute through __dict__", f"vars({p.path})['{n}'] = {others[0]}")
    p.change("attribute through __dict__", f"{p.path}.__dict__.update({n}={others[0]})")
    p.change("attribute deleted", f"del {p.path}.{n}")
    return f"self.{n}"


def _buffer(p: Piece, n: str, value: str, others: list[str]) -> str:
    if not value.startswith("torch."):
        return _attribute(p, n, value, others)
    kind = p.draw.choice(["nn.Parameter({})", "buffer", "non-persistent", "{}", "[{}]", "{{'k': {}}}"])
    read = f"self.{n}" + {"[": "[0]", "{{": "['k']"}.get(kind[: 1 + (kind[0] == "{" and kind[1] == "{")], "")
    if "buffer" in kind or "persistent" in kind:
        p.init(f"self.register_buffer('{n}', {value}, persistent={kind == 'buffer'})")
        read = f"self.{n}"
    else:
        p.init(f"self.{n} = {kind.format(value)}")
    target = f"{p.path}{read.removeprefix('self')}"
    c = p.channels
    p.change("tensor written", f"{target}.data.mul_(1.5)", f"with torch.no_grad(): {target}.add_(0.5)")
    p.change("tensor written by NumPy", f"{target}.detach().numpy()[0] = 3")
    p.change("tensor's data set", f"{target}.data = numbers({c}, 1, 1, seed=5)")
    p.change("tensor of another shape", f"{target}.data = numbers(1, 1, 1, seed=5)")
    p.change("tensor replaced", f"{target} = nn.Parameter(numbers({c}, 1, 1, seed=6))")
    p.change("tensor replaced", f"{target} = numbers({c}, 1, 1, seed=7)", f"{target} = None")
    return read


def _namespace(p: Piece, n: str, value: str, others: list[str]) -> str:
    p.init(f"self.{n} = SimpleNamespace(inner=SimpleNamespace(k={value}), other=1)")
    for other in others:
        p.change("namespace", f"{p.path}.{n}.inner.k = {other}")
    p.change("namespace replaced", f"{p.path}.{n}.inner = types.SimpleNamespace(k={others[0]})")
    return f"self.{n}.inner.k"


def _dataclass(p: Piece, n: str, value: str, others: list[str]) -> str:
    p.top(f"@dataclasses.dataclass\nclass Config{n}:\n    k: object = None\n    other: int = 1\n")
    p.init(f"self.{n} = Config{n}({value})")
    for other in others:
        p.change("dataclass", f"{p.path}.{n}.k = {other}")
    p.change("dataclass replaced", f"{p.path}.{n} = m.Config{n}({others[0]})")
    return f"self.{n}.k"


def _dict(p: Piece, n: str, value: str, others: list[str]) -> str:
    p.init(f"self.{n} = {{'a': {{'k': {value}}}, 'b': 2}}")
    for other in others:
        p.change("dict", f"{p.path}.{n}['a']['k'] = {other}")
    p.change("dict", f"{p.path}.{n}['a'].clear()", f"{p.path}.{n}['a'] = {{'k': {others[0]}}}")
    return f"self.{n}['a']['k']"


def _list(p: Piece, n: str, value: str, others: list[str]) -> str:
    p.init(f"self.{n} = [0, [{value}]]")
    for other in others:
        p.change("list", f"{p.path}.{n}[1][0] = {other}")
    p.change("list", f"{p.path}.{n}[1].insert(0, {others[0]})", f"{p.path}.{n}.clear()")
    return f"self.{n}[1][0]"


def _tuple(p: Piece, n: str, value: str, others: list[str]) -> str:
    p.init(f"self.{n} = (1, {value})")
    for other in others:
        p.change("tuple", f"{p.path}.{n} = (1, {other})")
    return f"self.{n}[-1]"


def _class(p: Piece, n: str, value: str, others: list[str]) -> str:
    p.scope.body.append(f"{n} = {value}")
    for other in others:
        p.change("class attribute", f"m.{p.scope.name}.{n} = {other}")
    how = p.draw.choice([f"self.{n}", f"type(self).{n}", f"{p.scope.name}.{n}", f"self.__class__.{n}"])
    p.change("class attribute shadowed", f"{p.path}.{n} = {others[0]}")
    p.change("class attribute deleted", f"del m.{p.scope.name}.{n}")
    return how


def _base(p: Piece, n: str, value: str, others: list[str]) -> str:
    p.top(f"class Base{n}:\n    {n} = {value}\n")
    p.scope.bases.append(f"Base{n}")
    for other in others:
        p.change("base class attribute", f"m.Base{n}.{n} = {other}")
    p.change("class attribute over base's", f"m.{p.scope.name}.{n} = {others[0]}")
    return f"self.{n}"


def _global(p: Piece, n: str, value: str, others: list[str]) -> str:
    p.top(f"{n.upper()} = {value}")
    for other in others:
        p.change("global", f"m.{n.upper()} = {other}")
    p.change("global", f"vars(m)['{n.upper()}'] = {others[0]}", f"del m.{n.upper()}")
    return n.upper()


def _global_dict(p: Piece, n: str, value: str, others: list[str]) -> str:
    p.top(f"{n.upper()} = {{'k': {value}}}")
    for other in others:
        p.change("global dict", f"m.{n.upper()}['k'] = {other}")
    return p.draw.choice([f"{n.upper()}['k']", f"{n.upper()}.get('k', 1)"])


def _global_list(p: Piece, n: str, value: str, others: list[str]) -> str:
    p.top(f"{n.upper()} = [{value}]")
    for other in others:
        p.change("global list", f"m.{n.upper()}[0] = {other}")
    p.change("global list", f"m.{n.upper()}.append({others[0]})")
    return f"{n.upper()}[-1]"


def _module(p: Piece, n: str, value: str, others: list[str]) -> str:
    p.top(f"{n.upper()} = types.ModuleType('{n}')\n{n.upper()}.k = {value}")
    for other in others:
        p.change("module attribute", f"m.{n.upper()}.k = {other}")
    return f"{n.upper()}.k"


def _object(p: Piece, n: str, value: str, others: list[str]) -> str:
    kind = p.draw.choice(["plain", "slots", "getattr", "method", "call", "property"])
    write, read = f"{p.path}.{n}.k = {{}}", f"self.{n}.k"
    body = "    def __init__(self, k): self.k = k\n"
    if kind == "slots":
        body = "    __slots__ = ('k',)\n" + body
    elif kind == "getattr":
        body = "    def __init__(self, k): self.__dict__['values'] = {'k': k}\n"
        body += "    def __getattr__(self, name):\n        if name == 'k': return self.values['k']\n"
        body += "        raise AttributeError(name)\n"
        write = f"{p.path}.{n}.values['k'] = {{}}"
    elif kind == "method":
        body, read = body + "    def get(self): return self.k\n", f"self.{n}.get()"
        p.change("helper's method replaced", f"m.Helper{n}.get = lambda self: {others[0]}")
    elif kind == "call":
        body, read = body + "    def __call__(self): return self.k\n", f"self.{n}()"
    elif kind == "property":
        body += "    @property\n    def value(self): return self.k\n"
        read = f"self.{n}.value"
        p.change("property replaced", f"m.Helper{n}.value = property(lambda self: {others[0]})")
    p.top(f"class Helper{n}:\n{body}")
    if p.chance(0.3):
        p.top(f"{n.upper()} = Helper{n}({value})")
        write, read = write.replace(f"{p.path}.{n}", f"m.{n.upper()}"), read.replace(f"self.{n}", n.upper())
        kind = f"global {kind}"
    else:
        p.init(f"self.{n} = Helper{n}({value})")
    for other in others:
        p.change(f"object ({kind})", write.format(other))
    return read


def _closure(p: Piece, n: str, value: str, others: list[str]) -> str:
    p.top(
        f"def make_{n}():\n    k = {value}\n    def read(): return k\n"
        f"    def write(value):\n        nonlocal k\n        k = value\n    return read, write\n"
        f"read_{n}, write_{n} = make_{n}()"
    )
    for other in others:
        p.change("closure", f"m.write_{n}({other})")
    return f"read_{n}()"


def _default(p: Piece, n: str, value: str, others: list[str]) -> str:
    kind = p.draw.choice(["default", "keyword default", "mutable default", "function attribute"])
    declared, write = {
        "default": (f"def f_{n}(k={value}): return k", f"m.f_{n}.__defaults__ = ({{}},)"),
        "keyword default": (f"def f_{n}(*, k={value}): return k", f"m.f_{n}.__kwdefaults__ = {{{{'k': {{}}}}}}"),
        "mutable default": (f"def f_{n}(k=[{value}]): return k[0]", f"m.f_{n}.__defaults__[0][0] = {{}}"),
        "function attribute": (f"def f_{n}(): return f_{n}.k\nf_{n}.k = {value}", f"m.f_{n}.k = {{}}"),
    }[kind]
    p.top(declared)
    for other in others:
        p.change(kind, write.format(other))
    p.change("global function replaced", f"m.f_{n} = lambda: {others[0]}")
    if others[0][0] in "0123456789-TFN'":
        p.change("function's code replaced", f"m.f_{n}.__code__ = (lambda k=1: {others[0]}).__code__")
    return f"f_{n}()"


def _callable(p: Piece, n: str, value: str, others: list[str]) -> str:
    if p.chance(0.5):
        p.init(f"self.{n} = functools.partial(dict, k={value})")
        for other in others:
            p.change("partial replaced", f"{p.path}.{n} = m.functools.partial(dict, k={other})")
        p.change("partial's keywords", f"{p.path}.{n}.keywords['k'] = {others[0]}")
        return f"self.{n}()['k']"
    p.init(f"self.{n} = lambda: {value}")
    for other in others:
        p.change("lambda replaced", f"{p.path}.{n} = lambda: {other}")
    return f"self.{n}()"


def _property(p: Piece, n: str, value: str, others: list[str]) -> str:
    p.init(f"self._{n} = {value}")
    p.scope.body.extend(["@property", f"def {n}(self):", f"    return self._{n}"])
    for other in others:
        p.change("attribute behind a property", f"{p.path}._{n} = {other}")
    p.change("property of the class", f"m.{p.scope.name}.{n} = property(lambda self: {others[0]})")
    return f"self.{n}"


def _method(p: Piece, n: str, value: str, others: list[str]) -> str:
    kind = p.draw.choice(["", "@staticmethod", "@classmethod"])
    first = {"": "self", "@staticmethod": "", "@classmethod": "cls"}[kind]
    p.scope.body.extend([*([kind] if kind else []), f"def {n}({first}):", f"    return {value}"])
    for other in others[:2]:
        p.change("method replaced on instance", f"{p.path}.{n} = lambda: {other}")
        wrapped = f"w.named({n!r}, lambda {first}: {other})"
        wrapped = f"({kind[1:]})({wrapped})" if kind else wrapped
        p.change("method replaced on class", f"m.{p.scope.name}.{n} = {wrapped}")
    return f"self.{n}()"


def _missing(p: Piece, n: str, value: str, others: list[str]) -> str:
    if p.chance(0.5):
        p.init(f"self.{n} = {others[0]}" if "numbers" not in others[0] else "pass")
    for other in others:
        p.change("attribute that may be missing", f"{p.path}.{n} = {other}")
    p.change("attribute that may be missing", f"del {p.path}.{n}", f"{p.path}.__dict__.pop('{n}', None)")
    return p.draw.choice([f"getattr(self, '{n}', {value})", f"(self.{n} if hasattr(self, '{n}') else {value})"])


def _child(p: Piece, n: str, value: str, others: list[str]) -> str:
    kind = p.draw.choice(["nn.Identity()", "nn.ReLU()", "nn.ModuleList()"])
    p.init(f"self.{n} = {kind}", f"self.{n}.k = {value}")
    for other in others:
        p.change("attribute of a child", f"{p.path}.{n}.k = {other}")
    return f"self.{n}.k"


def _hidden(p: Piece, n: str, value: str, others: list[str]) -> str:
    p.init(f"self.{n} = [nn.Identity()]", f"self.{n}[0].k = {value}")
    for other in others:
        p.change("attribute of a module in a list", f"{p.path}.{n}[0].k = {other}")
    return f"self.{n}[0].k"


def _context(p: Piece, n: str, value: str, others: list[str]) -> str:
    p.top(f"{n.upper()} = contextvars.ContextVar('{n}', default={value})")
    for other in others:
        p.change("context variable", f"m.{n.upper()}.set({other})")
    return f"{n.upper()}.get()"


PLACES: list[Place] = [
    *[_attribute] * 3,
    *[_buffer] * 3,
    *[_namespace, _dataclass, _dict, _list, _tuple, _class, _class, _base, _global, _global, _global_dict],
    *[_global_list, _module, _object, _object, _object, _closure, _default, _default, _callable, _property],
    *[_method, _missing, _child, _hidden, _context],
]


# -------------------------------------------------------------------- pieces

PIECES: dict[Callable[[Piece], None], float] = {}


def piece(weight: float) -> Callable[[Callable[[Piece], None]], Callable[[Piece], None]]:
    def register(function: Callable[[Piece], None]) -> Callable[[Piece], None]:
        PIECES[function] = weight
        return function

    return register


ACTIVATIONS = [
    *["nn.ReLU()", "nn.ReLU(inplace=True)", "nn.ReLU6()", "nn.SiLU()", "nn.GELU()", "nn.Hardswish()", "nn.Sigmoid()"],
    *["nn.Tanh()", "nn.LeakyReLU(0.2)", "nn.Hardtanh()", "nn.Hardsigmoid()", "nn.Identity()"],
    *["nn.LeakyReLU(0.1, inplace=True)", "nn.ELU()", "nn.PReLU()", "nn.Softplus()", "nn.Mish()", "nn.Softmax(1)"],
    "nn.SiLU(inplace=True)",
]
CALLS = [
    *["F.relu({})", "{}.relu()", "torch.relu({})", "F.relu({}.clone(), inplace=True)", "({} * 1.0).relu_()"],
    *["F.gelu({})", "F.silu({})", "torch.sigmoid({})", "{}.tanh()", "F.leaky_relu({}, 0.2)", "{}.clamp(min=-0.3)"],
    *["F.hardtanh({}, -0.5, 0.7)", "F.relu6({})", "F.elu({})", "{}.clamp(-1, 1)", "F.softmax({}, 1)", "{}.abs()"],
]


def activation(p: Piece) -> str:
    """A layer or a function; with {} where its argument stands."""
    if p.source.simple:
        return p.layer(p.draw.choice(ACTIVATIONS[:12])) + "({})" if p.chance(0.5) else p.draw.choice(CALLS[:10])
    return p.layer(p.draw.choice(ACTIVATIONS)) + "({})" if p.chance(0.5) else p.draw.choice(CALLS)


def convolution(p: Piece, inner: int = 0, outer: int = 0, same: bool = False) -> str:
    """The text of a convolution from ``inner`` channels to ``outer``; ``same`` keeps the size of images."""
    c = p.channels
    inner, outer = inner or c, outer or c
    kernel = p.draw.choice([1, 3, 3, 3, 5, (1, 3), (3, 1)])
    dilation = p.draw.choice([1, 1, 1, 2])
    kernels = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding: object = tuple(each // 2 * dilation for each in kernels)
    stride: object = 1
    if not same and p.chance(0.25):
        stride = p.draw.choice([2, (1, 2)])
    elif p.chance(0.15):
        padding = "same"
    elif not same and p.chance(0.1):
        padding = "valid" if kernel == 1 else padding
    groups = p.draw.choice([1, 1, 1, c if p.source.simple else 2, c]) if inner % c == 0 and outer % c == 0 else 1
    extra = ", bias=False" if p.chance(0.3) else ""
    if p.chance(0.08) and not p.source.simple and padding not in ("same", "valid"):
        extra += f", padding_mode='{p.draw.choice(['circular', 'reflect', 'replicate'])}'"
    return (
        f"nn.Conv2d({inner}, {outer}, {kernel}, stride={stride}, padding={padding!r}, dilation={dilation},"
        f" groups={groups}{extra})"
    )


def normalisation(p: Piece, channels: int = 0) -> str:
    c = channels or p.channels
    if p.source.simple:
        return f"nn.BatchNorm2d({c})"
    options = ["", "", "", "", ", affine=False", ", momentum=None", ", track_running_stats=False", ", eps=0.1"]
    return p.draw.choice(
        [
            *[f"nn.BatchNorm2d({c}{p.draw.choice(options)})"] * 5,
            *[f"nn.GroupNorm(2, {c})", f"nn.GroupNorm(1, {c}, affine=False)", f"nn.InstanceNorm2d({c}, affine=True)"],
        ]
    )


@piece(5)
def convolve(p: Piece) -> None:
    p.do(f"h = {p.layer(convolution(p))}(h)")
    if p.chance(0.6):
        p.do(f"h = {activation(p).format('h')}")


@piece(5)
def conv_norm_act(p: Piece) -> None:
    p.do(f"h = {p.layer(convolution(p))}(h)", f"h = {p.layer(normalisation(p))}(h)")
    p.do(f"h = {activation(p).format('h')}")


@piece(4)
def conv_act_pool(p: Piece) -> None:
    p.do(f"h = {p.layer(convolution(p, same=True))}(h)")
    p.do(f"h = {p.draw.choice(['F.relu(h)', 'h.relu_()', p.layer('nn.ReLU()') + '(h)', 'F.relu6(h)'])}")
    pools = ["nn.MaxPool2d(2, ceil_mode=True)", "nn.MaxPool2d(3, 2, 1)", "nn.MaxPool2d((1, 2), (1, 2), (0, 1))"]
    pool = p.draw.choice(pools)
    p.do(f"h = {p.layer(pool)}(h)" if p.chance(0.6) else "h = F.max_pool2d(h, 3, 2, 1)")


@piece(5)
def residual(p: Piece) -> None:
    one, two = p.layer(convolution(p, same=True)), p.layer(normalisation(p))
    act = p.draw.choice(["F.relu({})", "{}.relu_()", "({})"])
    way = p.draw.choice([f"{two}({one}(h)) + h", f"h + {two}({one}(h))", f"{two}({one}(h)).add_(h)", f"{two}(h) + h"])
    if p.chance(0.3):
        other = p.layer(normalisation(p))
        way = f"{two}({one}(h)) + {other}(h)"
    p.do(f"h = {act.format('(' + way + ')')}")


@piece(4)
def sequential(p: Piece) -> None:
    name = p.own("seq")
    between = p.draw.choice(ACTIVATIONS[:12] if p.source.simple else ACTIVATIONS)
    layers = [convolution(p, same=True), normalisation(p), between, convolution(p, same=True)]
    layers += p.draw.choice([[], [normalisation(p)], ["nn.Dropout2d(0.3)"], ["nn.MaxPool2d(3, 1, 1)"]])
    if p.chance(0.3):
        p.draw.shuffle(layers)
    p.init(f"self.{name} = nn.Sequential({', '.join(layers)})")
    for place, text in enumerate(layers):
        p.known(f"{name}[{place}]", text)
    path = f"{p.path}.{name}"
    p.change("sequential: appended", f"{path}.append(nn.ReLU())", f"{path}.insert(0, nn.Tanh())")
    p.change("sequential: taken out", f"del {path}[2]", f"del {path}[-1]")
    p.change("sequential: swapped", f"{path}[0], {path}[3] = {path}[3], {path}[0]")
    how = [f"h = self.{name}(h)"] * 3
    how += [f"for layer in self.{name}: h = layer(h)", f"h = self.{name}[:2](h)", f"h = self.{name}[0](h)"]
    p.do(p.draw.choice(how))


@piece(3)
def branches(p: Piece) -> None:
    one, two = p.layer(convolution(p, same=True)), p.layer(convolution(p, same=True))
    norm, c = p.layer(normalisation(p)), p.channels
    way = p.draw.choice([0, 1, 4] if p.source.simple else range(5))
    if way == 0:
        p.do(f"a, b = {one}(h), {two}(h)", f"h = {norm}(a) + {norm}(b)")
    elif way == 1:
        p.do(f"h = {one}({one}(h))", f"h = {norm}(h) + {two}(h)")
    elif way == 2:
        join = p.layer(f"nn.Conv2d({2 * c}, {c}, 1)")
        p.do(f"h = {join}(torch.cat([{one}(h), {norm}({two}(h))], 1))")
    elif way == 3:
        p.do(f"a, b = {one}(h).chunk(2, 1)", f"h = torch.cat([F.relu(a), b.sigmoid()], 1) + {two}(h)")
    else:
        p.do(f"a = F.relu({norm}({one}(h)))", f"h = F.relu({norm}({two}(a)) + a)")
    paths = [each.replace("self", p.path) for each in (one, two)]
    p.change("layers swapped", f"{paths[0]}, {paths[1]} = {paths[1]}, {paths[0]}")
    p.change("layer shared", f"{paths[1]} = {paths[0]}")


@piece(3)
def loop(p: Piece) -> None:
    name = p.own("many")
    layers = [p.draw.choice([convolution(p, same=True), normalisation(p), "nn.ReLU()"]) for _ in range(3)]
    path = f"{p.path}.{name}"
    if p.chance(0.5):
        p.init(f"self.{name} = nn.ModuleList([{', '.join(layers)}])")
        for place, text in enumerate(layers):
            p.known(f"{name}[{place}]", text)
        p.change("list: appended", f"{path}.append(nn.ReLU())", f"{path}.insert(0, nn.Tanh())")
        p.change("list: swapped", f"{path}[0], {path}[1] = {path}[1], {path}[0]", f"del {path}[1]")
        p.change("list: reordered", f"{path}._modules = dict(reversed({path}._modules.items()))")
        ways = [f"for layer in self.{name}: h = layer(h)"]
        ways += [f"for i in range(len(self.{name})): h = self.{name}[i](h) + h"]
        ways += [f"for i, layer in enumerate(self.{name}): h = layer(h) * (i + 1)"]
        ways += [f"h = functools.reduce(lambda a, layer: layer(a), self.{name}, h)"]
        ways += [f"h = sum([layer(h) for layer in self.{name}])"]
        ways += [f"for layer in reversed(self.{name}): h = layer(h)", f"for layer in self.{name}[::2]: h = layer(h)"]
    else:
        made = ", ".join(f"'{key}': {layer}" for key, layer in zip("abc", layers, strict=True))
        p.init(f"self.{name} = nn.ModuleDict({{{made}}})")
        for key, text in zip("abc", layers, strict=True):
            p.known(f"{name}['{key}']", text)
        p.change("dict: changed", f"{path}['d'] = nn.ReLU()", f"del {path}['b']", f"{path}['a'] = nn.Tanh()")
        p.change("dict: reordered", f"{path}['a'] = {path}.pop('a')")
        chosen = p.word(["a", "b", "c"])
        ways = [f"for layer in self.{name}.values(): h = layer(h)", f"h = self.{name}[{chosen}](h)"]
        ways += [f"for key, layer in self.{name}.items(): h = layer(h) if key != {chosen} else h"]
        ways += [f"if {chosen} in self.{name}: h = self.{name}[{chosen}](h)"]
    p.do(p.draw.choice(ways))


@piece(2)
def children(p: Piece) -> None:
    """Layers that are found by name."""
    for place in range(2):
        p.init(f"self.part{p.name}{place} = {convolution(p, same=True)}")
        p.known(f"part{p.name}{place}", "Conv2d")
    ways = [f"for i in range(2): h = getattr(self, f'part{p.name}{{i}}')(h)"]
    ways += [f"for name, layer in self.named_children():\n            if name.startswith('part{p.name}'): h = layer(h)"]
    ways += [f"h = self.get_submodule('part{p.name}0')(h)", f"h = self._modules['part{p.name}1'](h)"]
    p.change("child added", f"{p.path}.part{p.name}2 = nn.Conv2d({p.channels}, {p.channels}, 1)")
    p.do(p.draw.choice(ways))


@piece(4)
def nested(p: Piece) -> None:
    """A module of pieces."""
    name, kind = p.own("b"), f"Block{p.name}"
    listed = p.chance(0.25)
    scope = Scope(kind, f"{p.path}.{name}" + ("[0]" if listed else ""))
    for place in range(p.draw.choice([1, 2, 3])):
        p.source.write(scope, f"{p.name}_{place}", p.depth + 1)
    ending = "h" if p.source.simple else p.draw.choice(["h"] * 6 + ["(h, h.mean())", "{'h': h}"])
    p.source.classes.append(scope.source("h", ending))
    p.init(f"self.{name} = " + (f"nn.ModuleList([{kind}(), {kind}()])" if listed else f"{kind}()"))
    p.source.layers.append((scope.path, kind))
    path, taken = scope.path, {"h": "", "(h, h.mean())": "[0]", "{'h': h}": "['h']"}[ending]
    p.change("forward replaced on instance", f"{path}.forward = lambda h: h * 0.5")
    p.change("forward replaced on instance", f"del {path}.forward")
    p.change("forward replaced on class", f"m.{kind}.forward = lambda self, h: h + 1")
    p.change("submodule replaced", f"{path} = nn.Identity()", f"{path} = m.{kind}()")
    p.change("submodule replaced by a copy", f"{path} = copy.deepcopy({path})")
    p.change("class changed", f"{path}.__class__ = type('Other', (m.{kind},), {{'forward': lambda self, h: h * 2}})")
    if listed:
        p.do(f"for block in self.{name}: h = block(h){taken}")
    else:
        ways = [f"h = self.{name}(h){taken}"] * 5
        ways += [f"h = self.{name}.forward(h){taken}", f"h = self.{name}(h=h){taken}"]
        ways += [f"h = h + self.{name}(h){taken} if {p.flag()} else self.{name}(h){taken}"]
        p.do(p.draw.choice(ways))


@piece(2)
def other_axes(p: Piece) -> None:
    """Layers for one axis, and for rows."""
    c = p.channels
    way = p.draw.randrange(6)
    if way == 0:
        p.do(f"h = {p.layer(f'nn.Conv1d({c}, {c}, 3, padding=1)')}(h.flatten(2)).view(h.shape)")
    elif way == 1:
        p.do(f"h = {p.layer(f'nn.Linear({c}, {c})')}(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)")
    elif way == 2:
        p.do(f"h = {p.layer(f'nn.LayerNorm({c})')}(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()")
    elif way == 3:
        p.do(f"h = {p.layer(f'nn.BatchNorm1d({c})')}(h.flatten(2)).reshape(h.shape)")
    elif way == 4:
        p.do(f"h = {p.layer(f'nn.ConvTranspose2d({c}, {c}, 2, 2)')}({p.layer(f'nn.Conv2d({c}, {c}, 2, 2, 1)')}(h))")
    else:
        p.do(f"s = {p.layer(f'nn.Linear({c}, {c})')}(h.mean((2, 3)))", "h = h * s.sigmoid()[:, :, None, None]")


@piece(2)
def pools(p: Piece) -> None:
    ways = [f"{p.layer('nn.AvgPool2d(3, 1, 1)')}(h)", f"{p.layer('nn.MaxPool2d(3, 1, 1)')}(h)"]
    p.do(
        "h = "
        + p.draw.choice(
            [
                *ways * (30 if p.source.simple else 1),
                f"{p.layer('nn.AdaptiveAvgPool2d(3)')}(h)",
                f"h * {p.layer('nn.AdaptiveAvgPool2d(1)')}(h)",
                f"{p.layer('nn.AdaptiveMaxPool2d(2)')}(h)",
                "F.avg_pool2d(h, 2, 2, ceil_mode=True, count_include_pad=False)",
                "F.adaptive_avg_pool2d(h, (2, None))",
                "F.max_pool2d(h, 2, 2, ceil_mode=True, return_indices=True)[0]",
                "h + F.interpolate(h.mean((2, 3), keepdim=True), size=h.shape[2:])",
                "F.interpolate(h, scale_factor=2, mode='bilinear')[..., ::2, ::2]",
                "F.lp_pool2d(h, 2, 2, ceil_mode=True)",
            ]
        )
    )


@piece(1.5)
def attention(p: Piece) -> None:
    c = p.channels
    p.do("t = h.flatten(2).transpose(1, 2)")
    way = p.draw.randrange(4)
    if way == 0:
        layer = p.layer(f"nn.MultiheadAttention({c}, 2, batch_first=True)")
        p.do(f"t = {layer}(t, t, t, need_weights={p.chance(0.5)})[0]")
    elif way == 1:
        qkv = p.layer(f"nn.Linear({c}, {3 * c})")
        p.do(f"q, k, v = {qkv}(t).chunk(3, -1)", "t = F.scaled_dot_product_attention(q, k, v)")
    elif way == 2:
        p.do("a = (t @ t.transpose(1, 2) / math.sqrt(t.shape[-1])).softmax(-1)")
        p.do("t = torch.einsum('bij,bjc->bic', a, t)")
    else:
        layer = f"nn.TransformerEncoderLayer({c}, 2, {2 * c}, dropout={p.draw.choice([0.0, 0.2])}, batch_first=True)"
        p.do(f"t = {p.layer(layer)}(t)")
    p.do("h = h + t.transpose(1, 2).reshape(h.shape)")


@piece(1)
def embedding(p: Piece) -> None:
    layer = p.layer(f"nn.Embedding(64, {p.channels})")
    p.do(f"h = h + {layer}(torch.arange(h.shape[-1], device=h.device)).t()[None, :, None]")


@piece(2)
def dropout(p: Piece) -> None:
    p.source.effects.add("random")
    ways = [p.layer("nn.Dropout(0.4)") + "(h)", p.layer("nn.Dropout2d(0.3)") + "(h)"]
    ways += ["F.dropout(h, 0.3, self.training)"]
    ways += [f"F.dropout(h, {p.number()}, self.training)", "F.dropout2d(h, 0.2)", "F.dropout(h * 1, 0.5, inplace=True)"]
    ways += [p.layer("nn.AlphaDropout(0.2)") + "(h)"]
    p.do(f"h = {p.draw.choice(ways)}")


@piece(7)
def knobs(p: Piece) -> None:
    """Numbers, words, flags and tensors that are read."""
    for _ in range(p.draw.choice([1, 2, 3])):
        way = p.draw.randrange(13)
        if way <= 2:
            p.do(f"h = h * {p.number()}" if p.chance(0.6) else f"h = h + {p.number()}")
        elif way == 3:
            p.do(f"if {p.flag()}: h = F.relu(h)")
        elif way == 4:
            p.do(f"h = getattr(F, {p.word(['relu', 'gelu', 'silu', 'tanh', 'missing'])})(h)")
        elif way == 5:
            p.do(f"h = {{'a': F.relu, 'b': torch.tanh, 'c': lambda v: v * 2}}[{p.word(['a', 'b', 'c'])}](h)")
        elif way == 6:
            p.do(f"for _ in range({p.whole()}): h = h * 0.5 + 1")
        elif way <= 8:
            p.do(f"h = h + {p.tensor()}" if p.chance(0.6) else f"h = h * {p.tensor()}")
        elif way == 9:
            value = p.optional()
            p.do(f"v = {value}", "if v is not None: h = h + v")
        elif way == 10:
            number = p.number()
            p.do(f"h = h * 2 if isinstance({number}, float) else h * {number}")
        elif way == 11:
            p.do(f"h = F.leaky_relu(h, {p.number()})")
        else:
            kernel = p.whole()
            p.do(f"h = F.max_pool2d(h, 2 * {kernel} + 1, 1, {kernel})")


@piece(2)
def lists(p: Piece) -> None:
    """Collections that are walked."""
    n = p.own("l")
    way = p.draw.randrange(4)
    path = f"{p.path}.{n}"
    if way == 0:
        p.init(f"self.{n} = [0.5, 2]")
        p.do(f"for s in self.{n}: h = h * s")
        p.change("list walked", f"{path}.append(0.5)", f"{path}.pop()", f"{path}.clear()", f"{path}[0] = 3.0")
    elif way == 1:
        p.init(f"self.{n} = {{'a': 0.5, 'b': 2.0}}")
        p.do(f"for key, s in self.{n}.items(): h = h * s if key == 'a' else h + s")
        p.change("dict walked", f"{path}['c'] = 1.0", f"{path}.pop('a')", f"{path}['a'] = {path}.pop('a')")
    elif way == 2:
        p.init(f"self.{n} = [nn.Conv2d({p.channels}, {p.channels}, 1)]")
        p.do(f"for layer in self.{n}: h = layer(h)")
        p.change("hidden layer", f"{path}[0].weight.data.mul_(1.5)", f"{path}[0] = nn.Identity()")
        p.change("hidden layer", f"with torch.no_grad(): {path}[0].weight.add_(0.1)", f"{path}.append(nn.Tanh())")
        # The float64 world casts what the model knows, which these layers aren't.
        p.source.effects.add("single")
    else:
        p.top(f"{n.upper()} = [F.relu]")
        p.do(f"for f in {n.upper()}: h = f(h)")
        p.change("functions walked", f"m.{n.upper()}.append(torch.tanh)", f"m.{n.upper()}[0] = F.gelu")


@piece(2)
def asks(p: Piece) -> None:
    """Control flow on shapes, modes and data."""
    p.do(
        p.draw.choice(
            [
                "if h.shape[-1] > 6: h = h * 2",
                "h = h / h.shape[0] if h.shape[0] else h",
                "if self.training: h = h + 1",
                "if torch.is_grad_enabled(): h = h * 1.5",
                "if h.requires_grad: h = h * 1.5",
                "if h.dtype == torch.bfloat16: h = h * 2",
                "if h.is_contiguous(): h = h + 1",
                "if h.mean() > 0: h = h * 2",
                "if float(h.sum()) > 1: h = h - 1",
                "h = h * (1 + len(list(self.parameters())))",
                "h = h * sum(q.requires_grad for q in self.parameters())",
                "assert h.dim() == 4, 'no images'",
                "if torch.is_autocast_enabled('cpu'): h = h * 2",
                "if torch.is_inference_mode_enabled(): h = h + 0.5",
                "if h.numel() > 300: raise ValueError('too much')",
                "while h.shape[-1] > 7: h = F.avg_pool2d(h, 2)",
                "if torch.compiler.is_compiling(): pass",
                "h = h * len(self._forward_hooks) + h",
                "if h.stride(1) == 1: h = h * 0.5",
                "h = torch.where(h > 0, h, h * 0.1)",
                "h = h * h.isfinite().all()",
                "h = h + isinstance(h, nn.Parameter)",
                "h = h * torch.get_num_threads()",
                "h = h * 2 if h is x else h + 1" if p.path == "model" else "h = h * 1",
                "h = h * (1 + h._version)",
                "if h.is_leaf: h = h * 2",
                "if h.grad_fn is None: h = h * 2",
                "if h._base is None: h = h * 2",
                "h = h * (1 + h.storage_offset())",
                "if type(h) is torch.Tensor: h = h * 2",
                "h = h * len(h.shape) * h.element_size()",
                "h = h * float(np.mean(h.shape))",
                "h = h + torch.from_numpy(np.tanh(h.detach().numpy()))",
                "h = h * max(1, min(2, int(h.detach().abs().sum()) % 2))",
                "h = h * len(str(tuple(h.shape)))",
                "h = h * torch.finfo(h.dtype).bits",
                "h = h * (2 if torch.get_default_dtype() == torch.float64 else 3)",
                "h = h + torch.full((1,), 0.1).to(h)",
                "h = h * len(self.state_dict())",
                "h = h * len(dict(self.named_modules()))",
                "h = h * sum(each.numel() for each in self.buffers())",
                "if not any(q.isnan().any() for q in self.parameters()): h = h * 2",
                "h = h * h.shape.numel() / 100",
            ]
        )
    )


@piece(1.5)
def randomness(p: Piece) -> None:
    p.source.effects.add("random")
    p.init("self.generator = torch.Generator().manual_seed(1)")
    p.top("NUMPYS, PYTHONS = np.random.default_rng(5), random.Random(5)")
    p.do(
        p.draw.choice(
            [
                "h = h + torch.rand(h.shape).to(h)",
                "h = h * torch.randn(h.shape[1], 1, 1).to(h)",
                "h = h + torch.rand_like(h) * 0.1",
                "h = h * random.random()",
                "h = h * float(np.random.rand())",
                "h = h + torch.randint(0, 3, (1,)).to(h)",
                "if random.random() < 0.5: h = h * 2",
                "if torch.rand(()) < 0.5: h = h * 2",
                "h = h * torch.bernoulli(torch.full((h.shape[0], 1, 1, 1), 0.7)).to(h)",
                "h = h[:, torch.randperm(h.shape[1])]",
                "h = h + torch.normal(0.0, 1.0, (1,), generator=torch.Generator().manual_seed(3)).to(h)",
                "h = h * random.choice([1, 2, 3])",
                "h = h + torch.empty(1).normal_().to(h)",
                "torch.manual_seed(3)\n        h = h + torch.rand(1).to(h)",
                "random.seed(3)\n        h = h * random.random()",
                "with torch.random.fork_rng(): h = h + torch.rand(1).to(h)",
                "h = h + torch.rand(1, generator=self.generator).to(h)",
                "h = h * np.random.default_rng(3).random()",
                "h = h * float(NUMPYS.random())",
                "h = h * PYTHONS.random()",
                "h = h + torch.get_rng_state()[:1].to(h) * 0",
            ]
        )
    )


#: Objects that answer otherwise each time, and how they are asked.
STATEFUL = [
    ("random.Random(5)", "{}.random()"),
    ("random.Random(5)", "{}.gauss(0, 1)"),
    ("np.random.default_rng(5)", "float({}.random())"),
    ("np.random.RandomState(5)", "float({}.rand())"),
    ("itertools.count()", "next({})"),
    ("iter(range(1000))", "next({})"),
    ("map(float, range(1000))", "next({})"),
    ("enumerate([0.5] * 1000)", "next({})[0]"),
    ("list(range(1000))", "{}.pop()"),
    ("list(range(1000))", "({0}.insert(0, {0}.pop()) or {0}[0])"),
    ("dict.fromkeys(range(1000))", "{}.popitem()[0]"),
    ("set(range(1000))", "len([{0}.pop(), {0}][1])"),
    ("collections.OrderedDict((i, i) for i in range(1000))", "{}.popitem(last=False)[0]"),
    ("collections.Counter()", "({0}.update('a') or {0}['a'])"),
    ("collections.defaultdict(int)", "({0}.update(a={0}['a'] + 1) or {0}['a'])"),
    ("collections.deque(range(9))", "({0}.rotate(1) or {0}[0])"),
    ("functools.partial(next, itertools.count())", "{}()"),
    ("io.StringIO('123456789' * 100)", "float({}.read(1))"),
    ("bytearray(range(200))", "{}.pop()"),
    ("(lambda a=[0]: (a.append(1), len(a))[1])", "{}()"),
    ("np.zeros(2)", "float({}.__iadd__(1)[0])"),
    ("torch.zeros(1)", "{}.add_(1).item()"),
]


@piece(3)
def effects(p: Piece) -> None:
    """What is left behind by a call."""
    n = p.own("e")
    p.source.effects.add("effects")
    way = p.draw.randrange(38)
    c = p.channels
    if way == 0:
        p.init(f"self.{n} = 0")
        p.do(f"self.{n} += 1", f"h = h * (1 + self.{n} % 3)")
        p.scope.watched.append(n)
        p.change("counter set", f"{p.path}.{n} = 7")
    elif way == 1:
        p.init(f"self.{n} = []")
        p.do(f"self.{n}.append(tuple(h.shape))")
        p.scope.watched.append(n)
    elif way == 2:
        p.do("LOG.append(h.detach().mean())")
    elif way == 3:
        p.do("LOG.append(float(h.mean()))")
    elif way == 4:
        p.do(f"COUNTS['{n}'] += 1")
    elif way == 5:
        p.init(f"self.register_buffer('{n}', torch.zeros({c}))")
        p.do(f"self.{n}.mul_(0.9).add_(h.detach().mean((0, 2, 3)), alpha=0.1)", f"h = h - self.{n}.view(-1, 1, 1)")
    elif way == 6:
        p.init(f"self.register_buffer('{n}', torch.zeros({c}))")
        p.do(f"self.{n} = 0.9 * self.{n} + 0.1 * h.detach().mean((0, 2, 3))", f"h = h - self.{n}.view(-1, 1, 1)")
    elif way == 7:
        p.init(f"self.{n} = None")
        p.do(f"if self.{n} is not None and self.{n}.shape == h.shape: h = h + self.{n}", f"self.{n} = h.detach()")
        p.scope.watched.append(n)
    elif way == 8:
        p.init(f"self.{n} = None")
        p.do(f"if self.{n} is None: self.{n} = h.detach().mean((0, 2, 3)).view(-1, 1, 1)", f"h = h + self.{n}")
        p.change("cache emptied", f"{p.path}.{n} = None")
    elif way == 9:
        p.do("if h.requires_grad: h.register_hook(lambda g: LOG.append(g.detach().mean()))")
    elif way == 10:
        p.do("if h.requires_grad: h.register_hook(lambda g: g * 0.5)", "h = h * 1")
    elif way == 11:
        p.init(f"self.{n} = {{}}")
        p.do(f"self.{n}.setdefault(h.shape[0], 0)", f"self.{n}[h.shape[0]] += 1")
        p.scope.watched.append(n)
    elif way == 12:
        p.top(f"def count_{n}():\n    global TOTAL_{n}\n    TOTAL_{n} += 1\n    return TOTAL_{n}\nTOTAL_{n} = 0")
        p.do(f"h = h * (count_{n}() % 3)")
    elif way == 13:
        p.init(f"self.{n} = itertools.cycle([1.0, 2.0, 3.0])")
        p.do(f"h = h * next(self.{n})")
    elif way == 14:
        p.top(f"@functools.lru_cache\ndef once_{n}(size):\n    LOG.append(size)\n    return size / 4\n")
        p.do(f"h = h * once_{n}(h.shape[-1])")
    elif way == 15:
        p.do("h.retain_grad() if h.requires_grad else None", "LOG.append(h.shape[0])")
    elif way == 16:
        p.do("print('shape', *h.shape, file=OUT)")
    elif way == 17:
        p.do(f"warnings.warn('fuzz {n}')")
    elif way == 18:
        p.top(f"logger_{n} = logging.Logger('{n}')\nlogger_{n}.addHandler(logging.StreamHandler(OUT))")
        p.do(f"logger_{n}.warning('shape %s', h.shape[1])")
    elif way == 19:
        p.do("LOG.append('before')", f"if {p.flag()}: raise ValueError('fuzz')", "LOG.append('after')")
    elif way == 20:
        p.init(f"self.{n} = 3")
        p.do(f"if hasattr(self, '{n}'): del self.{n}", "else: h = h * 2")
        p.change("attribute put back", f"{p.path}.{n} = 3")
    elif way == 21:
        p.do(f"if not hasattr(self, '{n}'): self.{n} = nn.Parameter(torch.ones({c}, 1, 1).to(h))", f"h = h * self.{n}")
    elif way == 22:
        p.do(f"if not hasattr(self, '{n}'): self.{n} = nn.Conv2d({c}, {c}, 1).to(h.dtype)", f"h = self.{n}(h)")
    elif way == 23:
        p.init(f"self.{n} = collections.deque(maxlen=2)")
        p.do(f"self.{n}.append(h.detach().mean())", f"h = h + sum(self.{n})")
        p.scope.watched.append(n)
    elif way == 24:
        p.init(f"self.{n} = collections.OrderedDict(a=1.0, b=2.0, c=3.0)")
        p.do(f"self.{n}.move_to_end(next(iter(self.{n})))", f"h = h * next(iter(self.{n}.values()))")
        p.scope.watched.append(n)
    elif way == 25:
        p.init(f"self.{n} = SimpleNamespace(total=0.0)")
        p.do(f"self.{n}.total += 0.5", f"h = h + self.{n}.total")
    elif way == 26:
        p.do(f"setattr(self, 'made{n}', h.shape[-1])", f"h = h * self.made{n}")
        p.scope.watched.append(f"made{n}")
    elif way == 27:
        p.init(f"self.{n} = np.zeros(2)")
        p.do(f"self.{n} += 0.5", f"h = h + float(self.{n}[0])")
    elif way == 28:
        p.do(f"type(self).made{n} = getattr(type(self), 'made{n}', 0) + 1", f"h = h * type(self).made{n}")
    elif way == 29:
        p.init(f"self.{n} = torch.zeros(1)")
        p.do(f"self.{n}.data.add_(1)", f"h = h * self.{n}.to(h)")
        p.scope.watched.append(n)
    elif way == 30:
        p.do("torch.set_grad_enabled(torch.is_grad_enabled())", "h = h * 1")
    elif way == 31:
        p.init(f"self.{n} = set()")
        p.do(f"self.{n}.add(h.shape[-1])", f"h = h * len(self.{n})")
    elif way == 32:
        p.init(f"self.register_buffer('{n}', torch.zeros((), dtype=torch.long))")
        p.do(f"self.{n} += 1", f"if self.{n} > 3: h = h * 2")
    elif way >= 34:
        made, read = p.draw.choice(STATEFUL)
        p.init(f"self.{n} = {made}")
        p.do(f"h = h * {read.format(f'self.{n}')}")
    else:
        p.init(f"self.{n} = True")
        p.do(f"if self.{n}:", f"    self.{n} = False", "    h = h * 2")
        p.scope.watched.append(n)


@piece(3)
def hooks(p: Piece) -> None:
    layer = p.layer(p.draw.choice([convolution(p, same=True), normalisation(p), "nn.ReLU()"]))
    kind = p.draw.choice(["forward", "forward", "pre", "backward", "full pre", "kwargs", "log", "parameter"])
    body = {
        "forward": f"{layer}.register_forward_hook(lambda module, args, result: result * 0.5)",
        "pre": f"{layer}.register_forward_pre_hook(lambda module, args: (args[0] + 1,))",
        "backward": f"{layer}.register_full_backward_hook(lambda module, gi, go: (gi[0] * 0.5,))",
        "full pre": f"{layer}.register_full_backward_pre_hook(lambda module, go: (go[0] * 2,))",
        "kwargs": f"{layer}.register_forward_hook(lambda module, args, kwargs, result: result + 1, with_kwargs=True)",
        "log": f"{layer}.register_forward_hook(lambda module, args, result: LOG.append(result.detach().mean()))",
        "parameter": f"[q.register_hook(lambda g: g * 0.5) for q in {layer}.parameters()]",
    }[kind]
    if kind == "log":
        p.source.effects.add("effects")
    p.init(body)
    p.do(f"h = {layer}(h)")


@piece(3)
def in_place(p: Piece) -> None:
    p.do(
        p.draw.choice(
            [
                "h = h.clone()\n        h[:, :2] += 1",
                "h = h * 1\n        h[:, 0].mul_(2)",
                "h = h.clone().add_(1).mul_(0.5)",
                "h = h + 0\n        h[h < 0] = 0",
                "h = h.clone()\n        h[..., 0] = h[..., 1] if h.shape[-1] > 1 else 0",
                "v = (h * 1).view(h.shape[0], -1)\n        v += 1\n        h = v.view(h.shape)",
                "a = h * 2\n        b = a.transpose(2, 3)\n        b.mul_(0.5)\n        h = a + b.transpose(2, 3)",
                "h = h.add(1)\n        a = h.relu_()\n        h = h + a",
                "h = torch.relu_(h * 1)",
                "o = torch.zeros_like(h)\n        o.copy_(h)\n        h = o",
                "o = h.new_empty(h.shape)\n        torch.mul(h.detach(), 2, out=o)\n        h = h + o",
                "h = h.mul_(0.5)",
                "h += 1",
                "h = F.relu(h, inplace=True)",
                "h = h.index_add(1, torch.tensor([0]), h[:, 1:2])",
                "h = h.detach().requires_grad_(h.requires_grad) if not self.training else h",
            ]
        )
    )


@piece(3)
def autograd(p: Piece) -> None:
    """Parts without gradients, checkpoints, functions with gradients of their own."""
    way = p.draw.randrange(18)
    layer = p.layer(convolution(p, same=True))
    norm = p.layer(normalisation(p))
    n = p.own("g")
    if way <= 1:
        reentrant = way == 0
        p.scope.body.extend([f"def part{n}(self, h):", f"    return F.relu({norm}({layer}(h)))"])
        p.do(f"h = checkpoint(self.part{n}, h, use_reentrant={reentrant})")
    elif way == 2:
        p.do("with torch.no_grad():", f"    a = {layer}(h)", "h = h + a")
    elif way == 3:
        p.do(f"h = h + {layer}(h).detach()")
    elif way == 4:
        p.scope.body.extend(["@torch.no_grad()", f"def part{n}(self, h):", f"    return {layer}(h)"])
        p.do(f"h = h + self.part{n}(h)")
    elif way == 5:
        p.top(
            f"class Function{n}(torch.autograd.Function):\n"
            "    @staticmethod\n    def forward(ctx, x):\n        ctx.save_for_backward(x)\n        return x * 2\n"
            "    @staticmethod\n    def backward(ctx, g):\n        (x,) = ctx.saved_tensors\n"
            "        return g * 3 + 0 * x\n"
        )
        p.do(f"h = Function{n}.apply({layer}(h))")
    elif way == 6:
        p.do("with torch.enable_grad():", "    a = h.detach().requires_grad_()", f"    s = {layer}(a).square().sum()")
        p.do("    g, = torch.autograd.grad(s, a)", "h = h + 0.01 * g")
    elif way == 7:
        p.do(f"with torch.set_grad_enabled(self.training): a = {layer}(h)", "h = h + a")
    elif way == 8:
        p.do(f"h = {layer}(h)", "if torch.is_grad_enabled(): h = torch.utils.checkpoint.checkpoint("
             f"lambda v: {norm}(v).relu(), h, use_reentrant=False)")  # fmt: skip
    elif way == 9:
        p.do("with torch.inference_mode(): a = h.mean()", "h = h * float(a)" if p.chance(0.5) else "h = h + 1")
    elif way == 10:
        p.scope.body.extend([f"def part{n}(self, h):", f"    return F.dropout({layer}(h), 0.3, self.training)"])
        p.do(f"h = checkpoint(self.part{n}, h, use_reentrant={p.chance(0.5)})")
        p.source.effects.add("random")
    elif way == 11:
        p.top(
            f"class Function{n}(torch.autograd.Function):\n"
            "    @staticmethod\n    def forward(x, k): return x * k, x.sign()\n"
            "    @staticmethod\n    def setup_context(ctx, inputs, output):\n"
            "        ctx.k = inputs[1]\n        ctx.mark_non_differentiable(output[1])\n"
            "    @staticmethod\n    def backward(ctx, g, _): return g * ctx.k * 2, None\n"
        )
        p.do(f"h, _ = Function{n}.apply({layer}(h), {p.number()})")
    elif way == 12:
        p.do(f"h = h + torch.func.vmap({layer})(h[:, None])[:, 0]")
    elif way == 13:
        p.do(f"h = h + 0.1 * torch.func.grad(lambda v: {layer}(v).square().sum())(h)")
    elif way == 14:
        p.do(f"others = {{key: v * 0.5 for key, v in {layer}.named_parameters()}}")
        p.do(f"h = torch.func.functional_call({layer}, others, (h,))")
    elif way == 15:
        p.do("h = h * 1", "h.data.mul_(0.5)", f"h = {layer}(h)")
    elif way == 16:
        p.do(f"h = copy.deepcopy({layer})(h)" if p.chance(0.5) else f"h = copy.copy({layer})(h)")
    else:
        p.do(f"with torch.autocast('cpu', torch.bfloat16, enabled={p.flag()} is True and h.dtype == torch.float32):",
             f"    h = h + {layer}(h)")  # fmt: skip


@piece(2)
def weights(p: Piece) -> None:
    """Weights that are tied, made of others, or no layer's."""
    way = p.draw.randrange(8)
    c = p.channels
    n = p.own("w")
    if way == 0:
        one, two = p.layer(f"nn.Conv2d({c}, {c}, 3, padding=1)"), p.layer(f"nn.Conv2d({c}, {c}, 3, padding=1)")
        p.init(f"{two}.weight = {one}.weight")
        p.do(f"h = {two}(F.relu({one}(h)))")
    elif way == 1:
        wrapper = p.draw.choice(["parametrizations.weight_norm", "parametrizations.spectral_norm"])
        name = p.own("f")
        p.init(f"self.{name} = {wrapper}(nn.Conv2d({c}, {c}, 3, padding=1))")
        path = f"{p.path}.{name}"
        p.change("parametrization removed", f"m.parametrize.remove_parametrizations({path}, 'weight')")
        p.change("parametrized weight set", f"{path}.weight = like({path}.weight)")
        p.change("parametrized weight written", f"{path}.parametrizations.weight.original1.data.mul_(2)")
        p.do(f"h = self.{name}(h)")
    elif way == 2:
        p.top(f"class Twice{n}(nn.Module):\n    def forward(self, w): return 2 * w.tanh()\n")
        layer = p.layer(f"nn.Conv2d({c}, {c}, 1)")
        p.init(f"parametrize.register_parametrization({layer}, 'weight', Twice{n}())")
        p.change("parametrization removed", f"m.parametrize.remove_parametrizations({p.path}{layer[4:]}, 'weight')")
        p.do(f"h = {layer}(h)")
    elif way == 3:
        p.init(f"self.{n} = nn.Parameter(torch.randn({c}, {c}, 3, 3) * 0.2)")
        p.do(f"h = F.conv2d(h, self.{n}, padding=1)")
        p.change("tensor written", f"{p.path}.{n}.data.mul_(1.5)")
        p.change("tensor replaced", f"{p.path}.{n} = nn.Parameter(numbers({c}, {c}, 1, 1))")
    elif way == 4:
        p.init(f"self.{n} = nn.Parameter(torch.randn({c}, {c}, 3, 3))")
        p.do(f"w = self.{n}", "w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-3)")
        p.do("h = F.conv2d(h, w, padding=1)")
    elif way == 5:
        p.init(f"self.register_buffer('m{n}', torch.zeros({c}))", f"self.register_buffer('v{n}', torch.ones({c}))")
        p.do(f"h = F.batch_norm(h, self.m{n}, self.v{n}, None, None, self.training, {p.number()}, 1e-3)")
    elif way == 6:
        p.init(f"self.{n} = nn.ParameterList([torch.ones({c}, 1, 1), torch.zeros({c}, 1, 1)])")
        p.do(f"h = h * self.{n}[0] + self.{n}[1]")
        p.change("tensor replaced", f"{p.path}.{n}[0] = nn.Parameter(numbers({c}, 1, 1, seed=4))")
    else:
        layer = p.layer(f"nn.Conv2d({c}, {c}, 3, padding=1)")
        p.init(f"prune.random_unstructured({layer}, 'weight', amount=0.3)")
        p.change("pruning removed", f"m.prune.remove({p.path}{layer[4:]}, 'weight')")
        p.do(f"h = {layer}(h)")


@piece(2)
def python(p: Piece) -> None:
    """Things that Python has."""
    n = p.own("p")
    way = p.draw.randrange(15)
    layer = p.layer(convolution(p, same=True))
    if way == 0:
        p.do(f"try: h = {layer}(h)", "except RuntimeError: h = h * 2")
    elif way == 1:
        p.do(f"def inner(v): return v + {layer}(h)", "h = inner(h)")
    elif way == 2:
        body = "    LOG.append('in')\n    yield 2.0\n    LOG.append('out')\n"
        p.top(f"@contextlib.contextmanager\ndef around_{n}():\n{body}")
        p.do(f"with around_{n}() as s: h = {layer}(h) * s")
    elif way == 3:
        p.do(f"h, *rest = [{layer}(h), h, 3]", "h = h + rest[0] * rest[-1]")
    elif way == 4:
        p.do(f"h = {layer}(h)", f"if (s := {p.number()}) is not None: h = h * s")
    elif way == 5:
        p.top(f"def gen_{n}(v):\n    for i in range(3): yield v * i\n")
        p.do(f"h = sum(gen_{n}({layer}(h)))")
    elif way == 6:
        p.top(f"class Kind{n}(enum.Enum):\n    ONE = 1\n    TWO = 2\n")
        p.init(f"self.{n} = Kind{n}.ONE")
        p.do(f"h = {layer}(h) if self.{n} is Kind{n}.ONE else h * self.{n}.value")
        p.change("enumeration", f"{p.path}.{n} = m.Kind{n}.TWO")
    elif way == 7:
        p.top(f"class Error{n}(Exception): pass\n")
        p.do("try:", f"    if {p.flag()}: raise Error{n}('no')", f"    h = {layer}(h)", f"except Error{n}: h = h * 2")
    elif way == 8:
        p.top(f"def deep_{n}(v, k): return v if k == 0 else deep_{n}(v * 0.5 + 1, k - 1)\n")
        p.do(f"h = deep_{n}({layer}(h), {p.whole()})")
    elif way == 9:
        p.do(f"f = functools.partial(F.leaky_relu, negative_slope={p.number()})", f"h = f({layer}(h))")
    elif way == 10:
        p.do(f"parts = {{i: {layer}(h) * i for i in range(3)}}", "h = torch.stack(list(parts.values())).sum(0)")
    elif way == 11:
        p.do("name = f'{h.shape[1]}'", f"h = {layer}(h) * int(name)")
    elif way == 12:
        p.scope.body.extend([f"def part{n}(self, h, *args, s=1, **kwargs):", f"    return {layer}(h) * s + len(args)"])
        p.do(f"h = self.part{n}(h, 1, 2, s={p.number()})")
        p.change("method replaced on class", f"m.{p.scope.name}.part{n} = lambda self, h, *args, **kwargs: h * 3")
        p.change("method replaced on instance", f"{p.path}.part{n} = lambda h, *args, **kwargs: h * 4")
    elif way == 13:
        p.do(f"h = {layer}(h)", "del h.missing" if p.chance(0.05) else "pass")
    else:
        p.do(f"h = (lambda f: f(f(h)))({layer})")


@piece(2)
def classes(p: Piece) -> None:
    """Modules of classes that do more than to define forward."""
    n, c = p.own("s"), p.channels
    conv = f"nn.Conv2d({c}, {c}, 3, padding=1)"
    way = p.draw.randrange(10)
    kind = f"Kind{n}"
    made = f"{kind}({c}, {c}, 3, padding=1)"
    if way == 0:
        p.top(f"class {kind}(nn.Conv2d):\n    def forward(self, x): return super().forward(x) * 2\n")
    elif way == 1:
        p.top(
            f"class {kind}(nn.Conv2d):\n    def _conv_forward(self, x, weight, bias):\n"
            "        return super()._conv_forward(x, weight * 0.5, bias)\n"
        )
    elif way == 2:
        p.top(f"class {kind}(nn.Sequential):\n    def forward(self, x): return x + super().forward(x)\n")
        made = f"{kind}({conv}, nn.ReLU())"
    elif way == 3:
        p.top(f"class {kind}(nn.Sequential): pass\n")
        made = f"{kind}({conv}, nn.BatchNorm2d({c}), nn.ReLU())"
    elif way == 4:
        p.top(f"class {kind}(nn.Conv2d):\n    def __call__(self, x): return super().__call__(x) + 1\n")
    elif way == 5:
        p.top(
            f"class {kind}(nn.Conv2d):\n    def __getattr__(self, name):\n"
            "        return 0.5 if name == 'factor' else super().__getattr__(name)\n"
            "    def forward(self, x): return super().forward(x) * self.factor\n"
        )
        p.change("attribute before __getattr__", f"{p.path}.f{p.name}b.factor = 3.0")
    elif way == 6:
        made = p.draw.choice([f"nn.LazyConv2d({c}, 3, padding=1)", "nn.LazyBatchNorm2d()"])
    elif way == 7:
        p.top(f"class Mixin{n}:\n    def forward(self, x): return super().forward(x).relu()\n")
        p.top(f"class {kind}(Mixin{n}, nn.Conv2d): pass\n")
        p.change("mixin's forward replaced", f"m.Mixin{n}.forward = lambda self, x: x * 2")
    elif way == 8:
        p.top(
            f"class Gain{n}:\n    def __get__(self, it, kind=None): return it.__dict__.get('gain', 2.0)\n"
            f"class {kind}(nn.Conv2d):\n    level = Gain{n}()\n"
            "    def forward(self, x): return super().forward(x) * self.level\n"
        )
        p.change("descriptor's value", f"{p.path}.f{p.name}b.gain = 0.5")
        p.change("descriptor replaced", f"m.Gain{n}.__get__ = lambda self, it, kind=None: 3.0")
    else:
        p.top(
            f"class {kind}(nn.BatchNorm2d):\n    def forward(self, x):\n"
            "        return F.batch_norm(x, self.running_mean, self.running_var, training=self.training)\n"
        )
        made = f"{kind}({c})"
    p.do(f"h = {p.layer(made)}(h)")


@piece(1.5)
def shapes(p: Piece) -> None:
    p.do(
        p.draw.choice(
            [
                "h = F.pad(h, (1, 0, 0, 1))[..., 1:, :-1]",
                "h = torch.roll(h, 1, 2)",
                "h = h.flip(-1)",
                "h = F.pixel_unshuffle(F.pixel_shuffle(h, 2), 2)",
                "h = h.view(h.shape[0], 2, -1, *h.shape[2:]).transpose(1, 2).reshape(h.shape)",
                "h = F.fold(F.unfold(h, 3, padding=1), h.shape[2:], 3, padding=1)",
                "h = torch.cat([h[:, 1:], h[:, :1]], 1)",
                "h = torch.stack(h.unbind(1), 1)",
                "h = h.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)",
                "h = torch.einsum('bchw,dc->bdhw', h, torch.eye(h.shape[1]).to(h))",
                "h = h.contiguous(memory_format=torch.channels_last)",
                "h = h[:, torch.tensor([1, 0, 2, 3] + list(range(4, h.shape[1])))]",
                "h = F.normalize(h, dim=1)",
                "h = h.cumsum(-1)",
                "h = h.expand(h.shape)",
                "h = F.local_response_norm(h, 2)",
            ]
        )
    )


@piece(0.7)
def recurrent(p: Piece) -> None:
    c = p.channels
    layer = p.layer(p.draw.choice([f"nn.GRU({c}, {c}, batch_first=True)", f"nn.LSTM({c}, {c}, batch_first=True)"]))
    p.do(f"t, _ = {layer}(h.flatten(2).transpose(1, 2))", "h = t.transpose(1, 2).reshape(h.shape)")


SIMPLE = {convolve, conv_norm_act, conv_act_pool, residual, sequential, branches, loop, nested, knobs, lists, pools}
