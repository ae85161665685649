"""Every pass of real layers: striate's operations against PyTorch's own, in both of PyTorch's layouts."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks.measure import RESULTS, circumstances, in_turns
from benchmarks.suite import family, problems
from striate import engine, ops
from striate.engine import Pass, passes
from striate.engine.layout import laid_out
from striate.engine.memory import keep_freed_memory
from striate.engine.timing import flops, moved, roofline
from striate.geometry import ConvShape, Problem, parse
from striate.ops.convolution import convolve

Call = Callable[..., Tensor]
Run = Callable[[], Tensor]
_LAYOUTS = {"NCHW": False, "channels_last": True}
_WHO = ("striate", "PyTorch")


def operands(problem: Problem) -> dict[Pass, Tensor]:
    """Input, upstream gradient and weight, by the pass that they are open in."""
    made = {Pass.INPUT_GRAD: torch.randn(problem.input_shape), Pass.OUTPUT: torch.randn(problem.output_shape)}
    if isinstance(problem, ConvShape):
        made[Pass.WEIGHT_GRAD] = torch.randn(problem.weight_shape)
    return made


def striates(problem: Problem, local: bool) -> Call:
    """The operation as an accelerated model calls it, choice of backend and all; ``local`` as a plain call chooses."""
    kernel, stride, padding, dilation = problem.kernel, problem.stride, problem.pads, problem.dilation
    if isinstance(problem, ConvShape):
        shape = problem
        return lambda x, w: convolve(shape.dims, x, w, None, stride, padding, dilation, shape.groups, local=local)
    pool = getattr(ops, f"{problem.kind}_pool{problem.dims}d")
    return lambda x: pool(x, kernel, stride, padding, dilation=dilation)


def pytorchs(problem: Problem) -> Call:
    """PyTorch's operation; padding by F.pad where its convolution can't."""
    even = all(before == after for before, after in problem.pads)
    sides = [cells for pair in reversed(problem.pads) for cells in pair]
    padding = tuple(before if even else 0 for before, _ in problem.pads)
    if isinstance(problem, ConvShape):
        shape, conv = problem, getattr(F, f"conv{problem.dims}d")
        how = (None, shape.stride, padding, shape.dilation, shape.groups)
        return lambda x, w: conv(x if even else F.pad(x, sides), w, *how)
    pool = getattr(F, f"{problem.kind}_pool{problem.dims}d")
    rest = (problem.dilation,) if problem.kind == "max" else ()
    return lambda x: pool(x, problem.kernel, problem.stride, padding, *rest)


def run_of(call: Call, problem: Problem, open_: Pass, given: dict[Pass, Tensor]) -> Run:
    """What one pass takes: the call itself, without gradients or (POSITIONS) with them; or one gradient of it."""
    roles = (Pass.INPUT_GRAD, Pass.WEIGHT_GRAD)[: 2 if isinstance(problem, ConvShape) else 1]
    if open_ is Pass.OUTPUT:
        operands = [given[role].detach() for role in roles]
        return lambda: call(*operands)
    leaves = [given[role].detach().requires_grad_() for role in roles]
    for _ in range(3):
        # Once all passes have been chosen, a call may be left to PyTorch as a whole.
        y = call(*leaves)
        torch.autograd.grad(y, leaves, given[Pass.OUTPUT], retain_graph=True)
    if open_ is Pass.POSITIONS:
        return lambda: call(*leaves)
    leaf, g = leaves[roles.index(open_)], given[Pass.OUTPUT]
    return lambda: torch.autograd.grad(y, leaf, g, retain_graph=True)[0]


def main(
    turns: Annotated[int, typer.Option(help="How often each contestant runs.")] = 9,
    only: Annotated[str, typer.Option(help="Only layers whose name contains this.")] = "",
    local: Annotated[bool, typer.Option("--local", help="As plain operations choose, without Winograd's.")] = False,
    save: Annotated[bool, typer.Option(help="Write results/operations.csv.")] = False,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="The means of results/operations.csv, no timing.")
    ] = False,
) -> None:
    """Times three passes of real layers; a ratio above 1 says that striate is faster.

    Each pass is first checked against PyTorch's. "same layout" compares like with like; "best" compares the faster of
    striate's two layouts with the faster of PyTorch's two.

    Example: python -m benchmarks operations --only depthwise
    """
    if recorded:
        with (RESULTS / "operations.csv").open(newline="") as file:
            Console(width=190).print(summary(list(csv.DictReader(file))))
        return
    torch.manual_seed(0)
    if not local:
        keep_freed_memory()  # as accelerate does; PyTorch's results gain by it as well
    errors = Console(stderr=True)
    chosen = {name: problem for name, problem in problems().items() if only.lower() in name.lower()}
    shown = track(list(chosen.items()), "timing", console=errors, disable=not errors.is_terminal)
    rows = [_measure(name, problem, open_, turns, local) for name, problem in shown for open_ in passes(problem)]
    told = circumstances()
    console = Console(width=190)
    console.print(_table(rows, "times in us; " + ", ".join(told.values())))
    console.print(summary(rows))
    if save:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / "operations.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0], *told])
            writer.writeheader()
            writer.writerows([row | told for row in rows])


def _measure(name: str, problem: Problem, open_: Pass, turns: int, local: bool) -> dict[str, Any]:
    contestants: dict[str, Run] = {}
    given = operands(problem)
    chosen = {}
    for layout, last in _LAYOUTS.items():
        laid = {role: laid_out(tensor, last) for role, tensor in given.items()}
        calls = striates(problem, local), pytorchs(problem)
        mine, theirs = (run_of(call, problem, open_, laid) for call in calls)
        _check(mine(), theirs())
        contestants |= {f"striate {layout}": mine, f"PyTorch {layout}": theirs}
        chosen[layout] = engine.explain(problem, channels_last=last, local=local).chosen[open_]
    times = in_turns(contestants, turns)
    medians = {contestant: times.median(contestant) for contestant in contestants}
    fastest = {who: min((f"{who} {layout}" for layout in _LAYOUTS), key=medians.__getitem__) for who in _WHO}
    low, middle, high = times.ratio(fastest["striate"], fastest["PyTorch"])
    ceiling = roofline(torch.get_num_threads()).seconds(flops(problem), moved(problem, open_) * 4)
    alike = {layout: times.ratio(*(f"{who} {layout}" for who in _WHO))[1] for layout in _LAYOUTS}
    return {
        "layer": name,
        "problem": str(problem),
        "family": family(problem),
        "pass": open_.name.lower(),
        **{f"{contestant} us": round(seconds * 1e6, 2) for contestant, seconds in medians.items()},
        **{f"ratio {layout}": round(ratio, 3) for layout, ratio in alike.items()},
        "ratio best": round(middle, 3),
        "low": round(low, 3),
        "high": round(high, 3),
        "share of roofline": float(f"{ceiling / medians[fastest['striate']]:.3g}"),
        **{f"backend {layout}": backend for layout, backend in chosen.items()},
    }


def _check(mine: Tensor, theirs: Tensor) -> None:
    """No speed without the right answer."""
    mine, theirs = mine.detach(), theirs.detach()
    scale = float(theirs.abs().max()) or 1.0
    torch.testing.assert_close(mine / scale, theirs / scale, rtol=1e-4, atol=1e-4)


def _table(rows: list[dict[str, Any]], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="dim")
    names = [f"{who} {layout} us" for layout in _LAYOUTS for who in _WHO]
    heads = ("layer", "pass", *(name.removesuffix(" us") for name in names))
    for column in (*heads, "NCHW", "ch. last", "best", "quartiles", "roofline", "by"):
        table.add_column(column, justify="left" if column in ("layer", "pass", "by") else "right")
    for row in rows:
        table.add_row(
            row["layer"],
            row["pass"],
            *(f"{row[name]:,.0f}" for name in names),
            *(f"{row[key]:.2f}" for key in ("ratio NCHW", "ratio channels_last", "ratio best")),
            f"{row['low']:.2f} .. {row['high']:.2f}",
            f"{row['share of roofline']:.0%}",
            f"{row['backend NCHW']}, {row['backend channels_last']}",
        )
    return table


def _sections(families: list[str]) -> dict[str, Callable[[dict[str, Any]], bool]]:
    """What means are told of, by name: whether a row belongs."""

    def image(row: dict[str, Any]) -> bool:
        return row["family"] == "few channels" and parse(row["problem"]).input_shape[1] <= 3

    def seven(row: dict[str, Any]) -> bool:
        return row["family"] == "depthwise" and parse(row["problem"]).kernel == (7, 7)

    def winograds(row: dict[str, Any]) -> bool:
        return "winograd" in (row["backend NCHW"], row["backend channels_last"])

    def of(family: str, *passes: str) -> Callable[[dict[str, Any]], bool]:
        return lambda row: row["family"] == family and (not passes or row["pass"] in passes)

    made = {each: of(each) for each in families}
    made |= {"all but dense": lambda row: row["family"] != "dense", "all": lambda row: True}
    names = [open_.name.lower() for open_ in Pass]
    made |= {f"{each}, {name}": of(each, name) for each in families for name in names}
    made["images of 1 to 3 channels, input_grad"] = lambda row: row["pass"] == "input_grad" and image(row)
    made["depthwise 7x7, weight_grad"] = lambda row: row["pass"] == "weight_grad" and seven(row)
    made["max pooling, output"] = lambda row: row["problem"].startswith("max") and row["pass"] == "output"
    made["dense, Winograd's in a layout"] = lambda row: row["family"] == "dense" and winograds(row)
    made["dense, in none"] = lambda row: row["family"] == "dense" and not winograds(row)
    return made


def summary(rows: list[dict[str, Any]]) -> Table:
    """Geometric means by family, by pass, and of some kinds of layers."""
    table = Table(title="geometric means", title_justify="left", box=None, header_style="dim")
    for column in ("family", "passes", "NCHW", "ch. last", "best", "least", "< 0.95", "of roofline"):
        table.add_column(column, justify="left" if column == "family" else "right")
    sections = _sections(sorted({row["family"] for row in rows}))
    groups = {name: [row for row in rows if belongs(row)] for name, belongs in sections.items()}
    for name, members in groups.items():
        if not members:
            continue
        means = (_mean(members, key) for key in ("ratio NCHW", "ratio channels_last", "ratio best"))
        least = min(float(row["ratio best"]) for row in members)
        below = sum(float(row["ratio best"]) < 0.95 for row in members)
        share = _mean(members, "share of roofline")
        table.add_row(
            name, str(len(members)), *(f"{mean:.2f}" for mean in means), f"{least:.2f}", str(below), f"{share:.0%}"
        )
    return table


def _mean(rows: list[dict[str, Any]], key: str) -> float:
    return math.exp(sum(math.log(max(float(row[key]), 1e-9)) for row in rows) / len(rows))
