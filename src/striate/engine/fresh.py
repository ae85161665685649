"""Allocates tensors for kernels: float32 on the CPU, independent of PyTorch's default dtype and device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

_HOW: Final[dict[str, Any]] = {"dtype": torch.float32, "device": torch.device("cpu")}

empty: Final[Callable[..., Tensor]] = partial(torch.empty, **_HOW)
empty_strided: Final[Callable[..., Tensor]] = partial(torch.empty_strided, **_HOW)
zeros: Final[Callable[..., Tensor]] = partial(torch.zeros, **_HOW)
ones: Final[Callable[..., Tensor]] = partial(torch.ones, **_HOW)
full: Final[Callable[..., Tensor]] = partial(torch.full, **_HOW)
tensor: Final[Callable[..., Tensor]] = partial(torch.tensor, **_HOW)
arange: Final[Callable[..., Tensor]] = partial(torch.arange, **_HOW)
