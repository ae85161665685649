"""striate as a compiler of PyTorch's: found by its name, asked by its options."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from striate.acceleration.backend import Compiled, striate_backend
from striate.errors import OperandError

#: A process that knows PyTorch alone. For each set of options: how far results, gradients and buffers are from the
#: model's own, or what is said of them.
ALONE = """
import copy, json, sys
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(3))
model(torch.randn(2, 3, 12, 12))
listed = "striate" in torch._dynamo.list_backends()
told = {}
for options in (None, {"blocks": False}, {"plans": False}, {"speed": 9}):
    torch._dynamo.reset()  # or captures of one code add up
    plain, own = copy.deepcopy(model), copy.deepcopy(model)
    compiled = torch.compile(own, backend="striate", options=options)
    results = []
    try:
        for first, second in ((plain, plain), (compiled, own)):
            torch.manual_seed(1)
            found = []
            for count in (2, 2):
                y = first.train()(torch.randn(count, 3, 12, 12))
                y.square().mean().backward()
                found.append(y)
            with torch.no_grad():
                found += [first.eval()(torch.randn(2, 3, 12, 12)) for _ in range(4)]
            results.append([*found, *(p.grad for p in second.parameters()), *second.buffers()])
        told[str(options)] = max((a - b).abs().max().item() for a, b in zip(*results))
    except Exception as error:
        told[str(options)] = str(error)
print(json.dumps([listed, "striate" in sys.modules, told]))
"""


@pytest.mark.slow
def test_a_process_that_never_imports_striate(tmp_path: Path) -> None:
    # So that plans are made; and what is measured for them is nobody else's.
    environment = os.environ | {"STRIATE_TUNE": "1", "STRIATE_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    listed, imported, told = json.loads(done.stdout)
    assert listed
    assert imported
    wrong = told.pop("{'speed': 9}")
    assert "OperandError: striate: got the option 'speed'; needed blocks or plans" in wrong
    assert len(told) == 3
    assert all(difference < 1e-5 for difference in told.values()), told


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("plans", [True, False])
def test_options_do_what_they_say(blocks: bool, plans: bool, planning: None) -> None:
    made, calls = list[Compiled](), list[tuple[Any, ...]]()

    def backend(graph: GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
        made.append(striate_backend(graph, examples, options={"blocks": blocks, "plans": plans}))
        return lambda *arguments: calls.append(arguments) or made[-1](*arguments)

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2)).eval()
    compiled, x = torch.compile(model, backend=backend), torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    assert len(made) == 1
    assert [len(names) for names in made[0].told] == ([3] if blocks else [])
    told = made[0].plan_told(calls[-1])
    assert ("steps on 1 thread" if plans else "plans are switched off") in told


def test_no_such_option() -> None:
    with pytest.raises(OperandError, match=r"^striate: got the option 'block'; needed blocks or plans"):
        striate_backend(GraphModule({}, torch.fx.Graph()), [], options={"block": True})
