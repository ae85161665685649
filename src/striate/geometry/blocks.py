"""Problems that are more than one window: normalisation with what follows it, and convolution with its pooling."""

from __future__ import annotations

from dataclasses import dataclass

from striate.geometry.shapes import ConvShape, PoolShape


@dataclass(frozen=True)
class NormShape:
    """Batch normalisation, a residual's addition and an activation as one operation.

    Args:
        input_shape: (N, C, ...).
        activation: as :func:`striate.ops.norm.batch_norm` takes it; ``""`` for none.
        residual: whether a tensor of the input's shape is added before the activation.
        training: whether mean and variance are the batch's.

    >>> str(NormShape((8, 64, 56, 56), "relu", residual=True))
    'batch_norm 8x64x56x56 relu residual'
    """

    input_shape: tuple[int, ...]
    activation: str = ""
    residual: bool = False
    training: bool = False

    @property
    def name(self) -> str:
        """The first word of the line."""
        return "batch_norm"

    def __str__(self) -> str:
        words = [self.activation, "residual" * self.residual, "training" * self.training]
        return " ".join([self.name, "x".join(map(str, self.input_shape)), *filter(None, words)])


@dataclass(frozen=True)
class ConvPoolShape:
    """Convolution, activation and max pooling as one operation that keeps positions for its gradients.

    Args:
        conv: the convolution.
        pool: the pooling of the convolution's output.
        activation: ``"relu"``, ``"relu6"`` or ``""``.

    >>> conv = ConvShape.parse("conv2d 8x1x28x28 6x1x5x5 padding=2")
    >>> block = ConvPoolShape(conv, PoolShape.of("max", conv.output_shape, 2, 2), "relu")
    >>> str(block)
    'conv_max_pool2d 8x1x28x28 6x1x5x5 padding=2 then kernel=2 stride=2 relu'
    """

    conv: ConvShape
    pool: PoolShape
    activation: str = ""

    @property
    def name(self) -> str:
        """The first word of the line."""
        return f"conv_max_pool{self.conv.dims}d"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(N, C, ...), the convolution's input."""
        return self.conv.input_shape

    def __str__(self) -> str:
        _, *conv = str(self.conv).split()
        _, _, *pool = str(self.pool).split()
        return " ".join([self.name, *conv, "then", *pool, *filter(None, [self.activation])])
