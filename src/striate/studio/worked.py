"""Computes one small layer number by number: outputs, positions of maxima, and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from striate import ops
from striate.errors import GeometryError
from striate.studio.windows import Layer, steps

#: The most cells of an input that remain readable on a page.
MOST_CELLS: Final = 196
#: The largest absolute value of a number that a user enters.
LARGEST: Final = 1e6


def work_out(
    layer: Layer,
    size: int,
    dims: int = 2,
    *,
    x: Sequence[float] = (),
    w: Sequence[float] = (),
    g: Sequence[float] = (),
    flipped: bool = False,
) -> dict[str, Any]:
    """Computes a layer with one channel: its output, and the gradients of ``sum(output * g)``.

    Args:
        layer: a layer with one output channel and one group.
        size: input positions along each of ``dims`` axes.
        x: the input, row by row; small integers by default.
        w: the kernel of a convolution, likewise.
        g: the output gradient, one number for each output; 1, 2, 3 and so on by default.
        flipped: true convolution, with a flipped kernel, instead of cross-correlation.

    Returns:
        ``x``, ``w``, ``g``, ``y``, ``dx`` and ``dw`` as flat lists (``w`` and ``dw`` are None for pooling), and for max
        pooling ``winners``, the flat position of each output's maximum.

    Raises:
        GeometryError: there are too many numbers, they are too large, or don't match the sizes.

    >>> work_out(Layer("max", 2), 3, x=[1, 5, 4, 9, 2, 1, 6, 3, 2])["y"]
    [9.0, 5.0, 9.0, 3.0]
    """
    (step,) = steps(size, 1, [layer], dims)
    if step.out_channels != 1 or layer.groups != 1:
        raise GeometryError("numbers", f"{step.out_channels} output channels", "needed one")
    if size**dims > MOST_CELLS or step.outputs**dims > MOST_CELLS:
        raise GeometryError("numbers", f"{size**dims} inputs and {step.outputs**dims} outputs", f"needed {MOST_CELLS}")
    shape, taps, outputs = (size,) * dims, (layer.kernel,) * dims, (step.outputs,) * dims
    given = _numbers("x", x, shape, [(7 * place + 3) % 10 for place in range(size**dims)])
    above = _numbers("g", g, outputs, range(1, step.outputs**dims + 1))
    given.requires_grad_()
    weight, winners = None, None
    if not layer.pools:
        plain = [(place % 3) - 1 for place in range(layer.kernel**dims)]
        weight = _numbers("w", w, taps, plain).requires_grad_()
    made = _applied(layer, dims, given, weight, flipped)
    if layer.kind == "max":
        made, winners = made
    wanted = [given] if weight is None else [given, weight]
    slopes = torch.autograd.grad(made, wanted, above.expand_as(made))
    return {
        "x": given.flatten().tolist(),
        "w": None if weight is None else weight.flatten().tolist(),
        "g": above.flatten().tolist(),
        "y": made.flatten().tolist(),
        "dx": slopes[0].flatten().tolist(),
        "dw": None if weight is None else slopes[1].flatten().tolist(),
        "winners": None if winners is None else winners.flatten().tolist(),
        "call": _call(layer, dims, given, weight, above, flipped),
    }


def _applied(layer: Layer, dims: int, x: Tensor, w: Tensor | None, flipped: bool) -> Any:
    padding: Any = [layer.padding] * dims
    stride, dilation = layer.stride, layer.dilation
    if layer.kind == "max":
        pool = ops.max_pool1d if dims == 1 else ops.max_pool2d
        return pool(x, layer.kernel, stride, padding, dilation, layer.ceil_mode, return_indices=True)
    if layer.kind == "avg":
        mean = ops.avg_pool1d if dims == 1 else ops.avg_pool2d
        return mean(x, layer.kernel, stride, padding, layer.ceil_mode, dilation=dilation)
    assert w is not None
    kernel = w.flip(list(range(2, dims + 2))) if flipped else w
    if layer.kind == "conv":
        return (ops.conv1d if dims == 1 else ops.conv2d)(x, kernel, None, stride, padding, dilation)
    transposed = ops.conv_transpose1d if dims == 1 else ops.conv_transpose2d
    return transposed(x, kernel, None, stride, padding, layer.extra, 1, dilation)


def _numbers(name: str, given: Sequence[float], shape: tuple[int, ...], plain: Sequence[int]) -> Tensor:
    if given and len(given) != len(plain):
        raise GeometryError("numbers", f"{len(given)} for {name}", f"needed {len(plain)}, row by row")
    numbers = torch.tensor(list(given) or list(plain), dtype=torch.float64)
    if not bool((numbers.abs() <= LARGEST).all()):  # also refuses NaN
        raise GeometryError("numbers", f"one of {name} is out of bounds", f"needed -{LARGEST:g} to {LARGEST:g}")
    return numbers.reshape(1, 1, *shape)


def _call(layer: Layer, dims: int, x: Tensor, w: Tensor | None, g: Tensor, flipped: bool) -> str:
    """Python code that prints the same output and gradients."""
    padding = repr(layer.padding) if not isinstance(layer.padding, tuple) else repr((layer.padding,) * dims)
    words = f"stride={layer.stride}, padding={padding}, dilation={layer.dilation}"
    ceil = f", ceil_mode={layer.ceil_mode}"
    lines = [
        "import torch",
        "from striate import ops",
        "",
        f"x = torch.tensor({x.detach()[0, 0].tolist()}, dtype=torch.float64)[None, None].requires_grad_()",
    ]
    if w is not None:
        lines.append(f"w = torch.tensor({w.detach()[0, 0].tolist()}, dtype=torch.float64)[None, None].requires_grad_()")
    kernel = "w"
    if flipped:
        lines.append(f"kernel = w.flip({list(range(2, dims + 2))})  # a true convolution runs the kernel backwards")
        kernel = "kernel"
    if layer.pools:
        lines.append(f"y = ops.{layer.kind}_pool{dims}d(x, {layer.kernel}, {words}{ceil})")
    elif layer.kind == "conv":
        lines.append(f"y = ops.conv{dims}d(x, {kernel}, {words})")
    else:
        lines.append(f"y = ops.conv_transpose{dims}d(x, {kernel}, {words}, output_padding={layer.extra})")
    lines += [
        f"g = torch.tensor({g[0, 0].tolist()}, dtype=torch.float64)[None, None]",
        "(y * g).sum().backward()",
        "print(y.flatten().tolist())",
        "print(x.grad.flatten().tolist())",
    ]
    if w is not None:
        lines.append("print(w.grad.flatten().tolist())")
    return "\n".join(lines) + "\n"
