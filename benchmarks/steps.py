"""Training steps and inference of whole networks: accelerated by striate against PyTorch as it comes."""

from __future__ import annotations

import copy
import csv
import io
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import striate
from benchmarks.measure import RESULTS, circumstances, in_turns
from benchmarks.networks import NETWORKS, Work

_FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def plain(model: nn.Module) -> nn.Module:
    """The model with torch.nn's layers where it has striate's: what its author would have written without striate."""
    for module in model.modules():
        if type(module).__module__.startswith("striate.nn") and hasattr(nn, type(module).__name__):
            module.__class__ = getattr(nn, type(module).__name__)
    return model


def training(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], object]:
    """Forward, backward and a step of SGD."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def inference(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], object]:
    model.eval()

    def run() -> Tensor:
        with torch.inference_mode():
            result: Tensor = model(images)
        return result

    return run


def onnxruntime(model: nn.Module, images: Tensor) -> Callable[[], object]:
    """The model as ONNX Runtime computes it, on as many threads as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(exported(model, images), options)
    fed = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, fed)[0]


def openvino(model: nn.Module, images: Tensor) -> Callable[[], object]:
    """The model as OpenVINO computes it, in float32, on as many threads as PyTorch has."""
    import openvino

    how = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    how["INFERENCE_NUM_THREADS"] = str(torch.get_num_threads())
    core = openvino.Core()
    request = core.compile_model(core.read_model(exported(model, images), b""), "CPU", how).create_infer_request()
    fed = [images.numpy()]
    return lambda: request.infer(fed, share_inputs=True, share_outputs=True)[0]


def exported(model: nn.Module, images: Tensor) -> bytes:
    buffer = io.BytesIO()
    # An encoder's fast path in evaluation is one operator of PyTorch's own, which ONNX doesn't have.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The exporter that needs no further package; the graph of these networks is the same by either.
            torch.onnx.export(model, (images,), buffer, dynamo=False)  # type: ignore[arg-type]
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return buffer.getvalue()


#: Other ways of computing a network, each with the package that it needs.
RUNTIMES = {"ONNX Runtime": ("onnxruntime", onnxruntime), "OpenVINO": ("openvino", openvino)}


def contestants(
    work: Work, batch: int, task: Any, with_compile: bool, runtimes: bool
) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    original = lively(plain(work.build()), torch.randn(16, *work.image))
    images = torch.randn(batch, *work.image)
    with torch.no_grad():
        expected = original.eval()(images)
    labels = torch.randint(expected.shape[1], (batch,))
    made = {}
    for layout, format_ in _FORMATS.items():
        shown = images.contiguous(memory_format=format_)
        theirs = copy.deepcopy(original).to(memory_format=format_)  # type: ignore[call-overload]
        mine = striate.accelerate(copy.deepcopy(theirs), quiet=True)
        # No speed without the right answer.
        torch.testing.assert_close(mine.eval()(shown), theirs.eval()(shown), rtol=1e-3, atol=1e-3)
        made[f"striate {layout}"] = task(mine, shown, labels)
        for _ in range(3):
            # What is chosen by measuring is chosen here, before threads of other runtimes spin.
            made[f"striate {layout}"]()
        made[f"PyTorch {layout}"] = task(theirs, shown, labels)
        if with_compile and layout == "channels_last":
            made["torch.compile"] = task(torch.compile(copy.deepcopy(theirs)), shown, labels)
    if task is inference:
        if runtimes:
            made |= {name: make(original, images) for name, (package, make) in RUNTIMES.items() if find_spec(package)}
        for name, run in made.items():
            # Plans are made when an input comes again, so what is checked is what a third call gives.
            given = [torch.as_tensor(run()) for _ in range(3)][-1]
            close = torch.allclose(given, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
            assert close, f"{name} gives other results"
    return made


def lively(model: nn.Module, images: Tensor) -> nn.Module:
    """With the statistics of normalisation that these images have, as training leaves them.

    In a fresh network activations grow or fade from layer to layer; what is zero or huge is computed in other times.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = None  # the mean of all batches
    with torch.no_grad():
        model.train()(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    return model


def main(
    turns: Annotated[int, typer.Option(help="How often each contestant runs.")] = 11,
    only: Annotated[str, typer.Option(help="Only networks whose name contains this.")] = "",
    with_compile: Annotated[bool, typer.Option("--compile", help="torch.compile as well (minutes).")] = False,
    runtimes: Annotated[bool, typer.Option(help="ONNX Runtime and OpenVINO as well, where installed.")] = False,
    only_inference: Annotated[bool, typer.Option("--inference", help="No training steps.")] = False,
    save: Annotated[bool, typer.Option(help="Write results/steps.csv.")] = False,
) -> None:
    """Times training steps, and inference of 1 and of 32 images; a ratio above 1 says that striate is faster.

    Example: python -m benchmarks steps --only LeNet --compile --runtimes
    """
    errors = Console(stderr=True)
    rows: list[dict[str, Any]] = []
    for name, work in NETWORKS.items():
        if only.lower() not in name.lower():
            continue
        for kind, task, batch in (
            ("training", training, work.batch),
            ("inference", inference, 1),
            ("inference", inference, 32),
        ):
            if only_inference and kind == "training":
                continue
            errors.print(f"{name}, {kind}, {batch} images", style="dim")
            if with_compile:
                torch.compiler.reset()  # it compiles so many forms of a function, then calls it as it is
            times = in_turns(contestants(work, batch, task, with_compile, runtimes), turns, rest=0.05)
            medians = {contestant: times.median(contestant) for contestant in times.seconds}
            mine, theirs = (
                min((each for each in medians if each.startswith("striate") == ours), key=medians.__getitem__)
                for ours in (True, False)
            )
            low, middle, high = times.ratio(mine, theirs)
            alike = {layout: times.ratio(f"striate {layout}", f"PyTorch {layout}")[1] for layout in _FORMATS}
            rows.append(
                {
                    "network": name,
                    "task": kind,
                    "images": "x".join(map(str, (batch, *work.image))),
                    **{f"{contestant} ms": round(seconds * 1e3, 3) for contestant, seconds in medians.items()},
                    **{f"ratio {layout}": round(ratio, 3) for layout, ratio in alike.items()},
                    "ratio best": round(middle, 3),
                    "low": round(low, 3),
                    "high": round(high, 3),
                }
            )
    told = circumstances()
    table = Table(title="times in ms; " + ", ".join(told.values()), title_justify="left", box=None, header_style="dim")
    # Runtimes have no training steps; the row with the most contestants names the columns.
    columns = max(map(list, rows), key=len)
    for column in columns:
        table.add_column(column.replace(" ms", ""), justify="left" if column in ("network", "task") else "right")
    for row in rows:
        values = (row.get(column, "") for column in columns)
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else value for value in values))
    Console(width=190).print(table)
    if save:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / "steps.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [*columns, *told], restval="")
            writer.writeheader()
            writer.writerows([row | told for row in rows])
