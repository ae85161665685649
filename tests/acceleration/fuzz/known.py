"""What TorchDynamo by itself does otherwise than plain PyTorch, each as the smallest module and steps that show it.

``python -m tests.acceleration.fuzz --known`` tells which of them an accelerated model shares; with ``--dynamo``, which
of them hold for ``torch.nn.Module.compile`` with a backend that does nothing.
"""

from __future__ import annotations

import dataclasses
import textwrap

from .sources import PREAMBLE


@dataclasses.dataclass(frozen=True)
class Known:
    """A module's ``forward`` of ``h``, what ``__init__`` does, what stands above the class, and steps."""

    name: str
    forward: str
    init: str
    top: str
    steps: tuple[str, ...]

    @property
    def source(self) -> str:
        base = "Base" if "class Base" in self.top else "nn.Module"
        return (
            f"{PREAMBLE}\n{self.top}\nclass Model({base}):\n    def __init__(self):\n        super().__init__()\n"
            f"{textwrap.indent(self.init or 'pass', ' ' * 8)}\n    def forward(self, h):\n"
            f"{textwrap.indent(self.forward, ' ' * 8)}\n        return h\n\n"
            "def inputs(make, n, size):\n    return ((make(n, 4, size, size),), {})\n\n"
            "def build():\n    return Model()\n"
        )


#: Where these kinds of steps and these words in modules lead; left out where only what is new is looked for.
STEPS = {
    *("swap_tensors", "a NumPy number"),
    "function's code replaced",
    "PyTorch's function replaced",
}
WORDS = {"lru_cache", "Lazy", "move_to_end", "popitem"}

CALL, TRAIN = "with torch.no_grad(): call(1)", "backward(1)"


def _known(name: str, forward: str, init: str = "", top: str = "", steps: tuple[str, ...] = (CALL, CALL)) -> Known:
    return Known(name, forward, init, top, ("model = accelerate(model)", *steps))


def _changed(line: str) -> tuple[str, ...]:
    return CALL, CALL, line, CALL


BLOCK = "class Block(nn.Module):\n    def forward(self, h): return h * 2\n"
HELPER = "class Helper:\n    k = 2\n    def get(self): return 2\n"

KNOWN = [
    # classes that change between calls
    _known("a child's forward replaced on its class", "h = self.b(h)", "self.b = Block()", BLOCK,
           _changed("m.Block.forward = lambda self, h: h + 1")),
    _known("a child's __call__ replaced on its class", "h = self.b(h)", "self.b = Block()", BLOCK,
           _changed("m.Block.__call__ = lambda self, h: h + 1")),
    _known("a mixin's forward replaced", "h = self.b(h)", "self.b = Both()",
           BLOCK.replace("Block(nn.Module)", "Mixin") + "class Both(Mixin, nn.Module): pass\n",
           _changed("m.Mixin.forward = lambda self, h: h + 1")),
    _known("the forward of PyTorch's layer replaced", "h = self.b(h)", "self.b = nn.Tanh()", "",
           (CALL, CALL, "with torch.no_grad(), w.patched(nn.Tanh, 'forward', lambda self, x: x * 2): call(1)")),
    _known("a method replaced on the model's class", "h = self.part(h)", "Model.part = lambda self, h: h * 2", "",
           _changed("m.Model.part = lambda self, h: h + 1")),
    _known("a method added over a base's", "h = self.part(h)", "",
           "class Base(nn.Module):\n    def part(self, h): return h * 2\n",
           _changed("m.Model.part = lambda self, h: h + 1")),
    _known("a property added over an attribute", "h = h * self.k", "self.k = 2", "",
           _changed("m.Model.k = property(lambda self: 3)")),
    _known("a descriptor's __get__ replaced", "h = h * self.k", "Model.k = Gain()",
           "class Gain:\n    def __get__(self, it, kind=None): return 2\n",
           _changed("m.Gain.__get__ = lambda self, it, kind=None: 3")),
    _known("a helper's method replaced", "h = h * self.b.get()", "self.b = Helper()", HELPER,
           _changed("m.Helper.get = lambda self: 3")),
    _known("a helper's class attribute over its base's", "h = h * self.b.k", "self.b = Other()",
           HELPER + "class Other(Helper): pass\n", _changed("m.Other.k = 3")),
    _known("a helper's __getattribute__ added", "h = h * self.b.k", "self.b = Helper()", HELPER,
           _changed("m.Helper.__getattribute__ = lambda self, name: 3")),
    _known("a child hidden by an attribute", "h = self.b(h)", "self.b = nn.ReLU()", "",
           _changed("vars(model)['b'] = torch.tanh")),
    _known("a key that wasn't in vars()", "h = h * vars(self).get('k', 2)", "", "", _changed("model.k = 3")),
    _known("a key that wasn't in a child's __dict__", "h = h * self.b.__dict__.get('k', 2)", "self.b = nn.ReLU()", "",
           _changed("model.b.k = 3")),
    _known("the number of attributes", "h = h * len(vars(self.b))", "self.b = SimpleNamespace(k=1)", "",
           _changed("model.b.other = 3")),
    _known("a function's code replaced", "h = h * two()", "", "def two(): return 2\n",
           _changed("m.two.__code__ = (lambda: 3).__code__")),
    _known("a function's code replaced by one with an argument", "h = h * two()", "", "def two(): return 2\n",
           _changed("m.two.__code__ = (lambda k: 3).__code__")),
    # hooks
    _known("a hook of all modules", "h = self.b(h)", "self.b = nn.Tanh()", "",
           (CALL, "with torch.no_grad(), w.everywhere(lambda module, args, result: result + 1): call(1)")),
    _known("a hook of the model, of all modules", "h = self.b(h)", "self.b = nn.Tanh()", "",
           (CALL, "with torch.no_grad(), w.everywhere(w.logging('all')): call(1)")),
    # what forwards leave behind
    _known("a random.Random", "h = h * SOME.random()", "", "SOME = random.Random(5)"),
    _known("a random.Random in an attribute", "h = h * self.some.random()", "self.some = random.Random(5)"),
    _known("functools.lru_cache", "h = h * once(h.shape[-1])", "",
           "@functools.lru_cache\ndef once(size):\n    LOG.append(size)\n    return size / 4\n"),
    _known("OrderedDict.move_to_end", "h = h * next(iter(self.d.values()))\nself.d.move_to_end(next(iter(self.d)))",
           "self.d = collections.OrderedDict(a=1.0, b=2.0)"),
    _known("OrderedDict.popitem(last=False)", "h = h * self.d.popitem(last=False)[0]",
           "self.d = collections.OrderedDict((i, i) for i in range(9))"),
    _known("dict.popitem", "h = h * self.d.popitem()[0]", "self.d = {i: i for i in range(9)}"),
    _known("a lazy layer, and the random state after it", "h = self.b(h)", "self.b = nn.LazyConv2d(4, 3)", "",
           (TRAIN,)),
    # numbers of NumPy's
    _known("isinstance of a NumPy number", "h = h * 2 if isinstance(self.k, float) else h * self.k", "self.k = 0.5", "",
           _changed("model.k = np.float64(0.5)")),
    _known("a NumPy number made in a function", "h = self.b(h * half())", "self.b = nn.Conv2d(4, 4, 1)",
           "def half(): return np.float64(0.5)\n"),
    _known("a deque that forgets", "self.kept.append(h.mean()); h = h + sum(self.kept)",
           "self.kept = collections.deque(maxlen=2)", "", (CALL, CALL, CALL, CALL)),
    _known("a class method by another name, around a graph break", "h = h * self.k()", "",
           "def half(): return torch.rand((), generator=torch.Generator().manual_seed(3))\n",
           _changed("Model.k = classmethod(lambda cls: half())")),
    _known("a function of PyTorch's replaced", "h = SOME(h)", "", "SOME = F.relu\n",
           ("with w.patched(F, 'relu', lambda x: x * 0.5): call(1)",)),
    # exceptions
    _known("an operator's exception", "h = self.b(h)", "self.b = nn.Conv2d(3, 3, 1)"),
    _known("a side effect before an operator's exception", "self.k += 1\nh = self.b(h)",
           "self.k, self.b = 0, nn.Conv2d(3, 3, 1)"),
    _known("an operator's exception, another type", "h = h * self.k", "self.k = None"),
    _known("an operator's exception in another thread", "h = self.b(h)", "self.b = nn.Conv2d(3, 3, 1)", "",
           ("threads(2, 1)",)),
    _known("a hook added in another thread's sight", "h = self.b(h)", "self.b = nn.Conv2d(4, 4, 1)", "",
           ("threads(1, 1)", "hook = model.b.register_forward_hook(lambda *given: given[-1] * 2)", "threads(1, 1)")),
    # modes and others
    _known("a function mode", "h = F.relu(h)", "", "", ("with w.overriding(): call(1)",)),
    _known("a subclass of tensors", "h = F.hardswish(self.b(h))", "self.b = nn.BatchNorm2d(4)", "",
           ("w.subclassed(1)",)),
    _known("swap_tensors", "h = self.b(h)", "self.b = nn.Conv2d(4, 4, 1)", "",
           _changed("torch.utils.swap_tensors(model.b.weight, nn.Parameter(like(model.b.weight, 5)))")),
    _known("a checkpoint around batch normalisation", "h = checkpoint(self.b, h, use_reentrant=False)",
           "self.b = nn.BatchNorm2d(4)", "", (TRAIN, "model.train(); backward(2, grad=True)")),
]  # fmt: skip
