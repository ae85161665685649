"""Graph convolution: a node's output is a weighted sum over its neighbours, with weights for each kind of neighbour.

Ordinary convolution is a graph convolution on a grid. There the kinds of neighbours are the taps of the kernel, and the
adjacency says which pixel lies under which tap.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from striate.errors import GeometryError, OperandError
from striate.geometry import Window


class GraphConv(torch.nn.Module):
    """A convolution on a graph with R kinds of edges (relations), (N, C_in, V) to (N, C_out, V').

    With x_j the values of node j, W_r the weights and A_r the (V', V) adjacency of relation r,

        y_i = b + sum over r, j of A_r[i, j] W_r x_j

    A weight A_r[i, j] may be 1 for an edge from j to i, a share 1 / c_i,r of all edges into i (Schlichtkrull et al.,
    "Modeling relational data with graph convolutional networks", 2018, equation 2, whose self-connection is a relation
    of its own), or anything else. With one relation and A = D^-1/2 (Adj + I) D^-1/2, D being the degrees of Adj + I, it
    is the layer of Kipf & Welling, "Semi-supervised classification with graph convolutional networks" (2017), equation
    2 before its nonlinearity. With :func:`grid_adjacency` it is :class:`striate.nn.Conv2d`, tap by tap: W_r is the
    kernel's ``weight[:, :, row, column]``.

    Args:
        in_channels, out_channels: C_in, C_out.
        relations: R.
        bias: whether there is b.

    Raises:
        GeometryError: a number below 1.

    >>> path = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])          # three nodes in a row
    >>> layer = GraphConv(1, 1, bias=False)
    >>> _ = torch.nn.init.ones_(layer.weight)
    >>> layer(torch.tensor([[[1.0, 10, 100]]]), path).tolist()            # each hears the sum of its neighbours
    [[[10.0, 101.0, 10.0]]]

    Formula: F55.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        relations: int = 1,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if min(in_channels, out_channels, relations) < 1:
            got = f"got {in_channels} and {out_channels} channels, {relations} relations"
            raise GeometryError("GraphConv", got, "needed 1 or more of each")
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        # As torch.nn's convolutions begin: uniform, of variance 1 / (3 fan-in).
        bound = 1 / math.sqrt(relations * in_channels)
        weight = torch.empty(relations, out_channels, in_channels, **where).uniform_(-bound, bound)
        self.weight = torch.nn.Parameter(weight)
        self.bias = torch.nn.Parameter(torch.empty(out_channels, **where).uniform_(-bound, bound)) if bias else None

    def forward(self, input: Tensor, adjacency: Tensor) -> Tensor:
        """The output.

        Args:
            input: (N, C_in, V).
            adjacency: (V', R * V), dense or sparse: the adjacencies of the relations side by side.

        Raises:
            OperandError: tensors of other shapes.
        """
        relations, out_channels, in_channels = self.weight.shape
        if input.dim() != 3 or input.shape[1] != in_channels:
            raise OperandError("GraphConv", f"got an input of {tuple(input.shape)}", f"needed (N, {in_channels}, V)")
        nodes = input.shape[2]
        if adjacency.dim() != 2 or adjacency.shape[1] != relations * nodes:
            got = f"got an adjacency of {tuple(adjacency.shape)}"
            raise OperandError("GraphConv", got, f"needed (V', {relations * nodes}): {relations} x {nodes} nodes")
        messages = torch.einsum("roc,ncv->rvno", self.weight, input).reshape(relations * nodes, -1)
        output = (adjacency @ messages).reshape(len(adjacency), -1, out_channels).permute(1, 2, 0)
        return output if self.bias is None else output + self.bias[:, None]

    def extra_repr(self) -> str:
        relations, out_channels, in_channels = self.weight.shape
        return f"{in_channels}, {out_channels}, relations={relations}, bias={self.bias is not None}"


def grid_adjacency(size: tuple[int, ...], windows: tuple[Window, ...], circular: bool = False) -> Tensor:
    """The adjacency of a grid whose relations are the taps of a kernel, for :class:`GraphConv`.

    Row o has a 1 in column r * V + j where output o sees through tap r the position j. Taps, outputs and positions are
    counted as their maps are flattened, the last axis fastest.

    Args:
        size: of the grid along each axis; V is the product.
        windows: one an axis.
        circular: whether the grid's end is beside its beginning, instead of zeros around it.

    Returns:
        A sparse float32 tensor (V', R * V): V' outputs, R taps.

    Raises:
        GeometryError: not as many windows as axes, or a window that doesn't fit.

    >>> grid_adjacency((3,), (Window(2),)).to_dense()
    tensor([[1., 0., 0., 0., 1., 0.],
            [0., 1., 0., 0., 0., 1.]])

    Formula: F55.
    """
    if len(windows) != len(size):
        raise GeometryError("grid_adjacency", f"got {len(windows)} windows for {len(size)} axes", "needed one an axis")
    seen, inside = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool)
    for window, length in zip(windows, size, strict=True):
        fixed = window.resolve(length)
        outputs = range(fixed.output_size(length))
        places = torch.tensor([[fixed.position(output, tap) for output in outputs] for tap in range(fixed.kernel)])
        if circular:
            places %= length
        within = (places >= 0) & (places < length)
        # All pairs of the axes so far with this axis: (taps, 1, outputs, 1) and (1, taps, 1, outputs).
        seen = (seen[:, None, :, None] * length + places[None, :, None]).flatten(2).flatten(0, 1)
        inside = (inside[:, None, :, None] & within[None, :, None]).flatten(2).flatten(0, 1)
    taps, outputs_of_all = seen.shape
    nodes = math.prod(size)
    rows = torch.arange(outputs_of_all).expand(taps, -1)
    columns = seen + nodes * torch.arange(taps)[:, None]
    where = torch.stack([rows[inside], columns[inside]])
    return torch.sparse_coo_tensor(
        where, torch.ones(where.shape[1]), (outputs_of_all, taps * nodes), check_invariants=True
    ).coalesce()
