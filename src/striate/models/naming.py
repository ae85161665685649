"""Maps other libraries' parameter names to ours, by the order of the layers.

A state_dict lists its layers in the order of computation, whatever their names are. So a table of another library's
names in this order suffices to rename them: its first name stands for our first layer, its last for our last.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor


@dataclass(frozen=True)
class Dialect:
    """How a library names the layers of a family of networks.

    Args:
        library: whose names they are.
        order: patterns of layers' names, in the order of computation. Their groups match numbers, in ascending order;
            the group ``part`` matches a layer's name within a block.
        blocks: the parts of each kind of block in the order of computation; a block may lack some. The first kind that
            has all parts of a block applies.
    """

    library: str
    order: tuple[str, ...]
    blocks: tuple[tuple[str, ...], ...] = ()

    def sorted(self, layers: set[str]) -> list[str] | None:
        """The layers in the order of computation; None if one of them isn't known here."""
        places: dict[str, tuple[int, ...]] = {}
        parts: dict[tuple[int, ...], dict[str, str]] = defaultdict(dict)
        for layer in layers:
            found = [(n, match) for n, pattern in enumerate(self.order) if (match := re.fullmatch(pattern, layer))]
            if not found:
                return None
            position, match = found[0]
            part = match.groupdict().get("part")
            places[layer] = (position, *(int(number) for number in match.groups() if number != part))
            if part is not None:
                parts[places[layer]][part] = layer
        for block, named in parts.items():
            kind = next((kind for kind in self.blocks if named.keys() <= set(kind)), None)
            if kind is None:
                return None
            places |= {layer: (*block, kind.index(part)) for part, layer in named.items()}
        return sorted(layers, key=places.__getitem__)


_SEPARABLE: Final = ("conv_dw", "bn1", "se.conv_reduce", "se.conv_expand", "conv_pw", "bn2")
_INVERTED: Final = ("conv_pw", "bn1", "conv_dw", "bn2", "se.conv_reduce", "se.conv_expand", "conv_pwl", "bn3")

#: timm calls the layers of ResNets and SE-ResNets as we do.
DIALECTS: Final = (
    Dialect(
        "timm",  # MobileNets and EfficientNets
        ("conv_stem", "bn1", r"blocks\.(\d+)\.(\d+)\.(?P<part>.+)", "conv_head", "bn2", "classifier"),
        (_SEPARABLE, _INVERTED),
    ),
    Dialect("timm", (r"features\.(\d+)", r"pre_logits\.fc1", r"pre_logits\.fc2", r"head\.fc")),  # VGGs
    Dialect(
        "torchvision",  # DenseNets: its files still have dots in the names of layers
        (
            r"features\.conv0", r"features\.norm0",
            *(
                pattern.format(block)
                for block in range(1, 5)
                for pattern in (
                    r"features\.denseblock{}\.denselayer(\d+)\.(?P<part>.+)", r"features\.transition{}\.(?P<part>.+)",
                )
            ),
            r"features\.norm5", "classifier",
        ),
        (("norm.1", "conv.1", "norm.2", "conv.2"), ("norm", "conv")),
    ),
    Dialect(
        "efficientnet_pytorch",
        ("_conv_stem", "_bn0", r"_blocks\.(\d+)\.(?P<part>.+)", "_conv_head", "_bn1", "_fc"),
        ((
            "_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_se_reduce", "_se_expand", "_project_conv", "_bn2",
        ),),
    ),
)  # fmt: skip


def translated(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``found`` under the names of ``own``, a network's state_dict, if a dialect knows its names; else unchanged.

    The weights of a convolution over a whole map are reshaped to those of the equivalent linear layer.
    """
    ours, theirs = (list(dict.fromkeys(name.rpartition(".")[0] for name in names)) for names in (own, found))
    if set(ours) == set(theirs):
        return dict(found)
    for dialect in DIALECTS:
        order = dialect.sorted(set(theirs))
        if order is not None and len(order) == len(ours):
            names = dict(zip(order, ours, strict=True))
            renamed = {
                f"{names[layer]}.{leaf}": found[f"{layer}.{leaf}"]
                for layer, _, leaf in (name.rpartition(".") for name in found)
            }
            return {name: _flat(tensor, own.get(name)) for name, tensor in renamed.items()}
    return dict(found)


def _flat(tensor: Tensor, like: Tensor | None) -> Tensor:
    whole_map = like is not None and tensor.dim() == 4 and like.dim() == 2 and tensor.numel() == like.numel()
    return tensor.flatten(1) if whole_map else tensor
