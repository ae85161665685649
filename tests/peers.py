"""torchvision and timm beside a PyTorch that has not torchvision's compiled part: only their Python is wanted."""

from __future__ import annotations

from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch


def peer(module: str) -> ModuleType:
    """A module of torchvision or timm; the test is skipped where they aren't installed."""
    register = torch.library.register_fake

    def lenient(name: Any, *arguments: Any, **named: Any) -> Any:
        # Without its compiled part torchvision has no operators to register a shape for.
        if isinstance(name, str) and name.startswith("torchvision::"):
            return lambda function: function
        return register(name, *arguments, **named)

    with mock.patch.object(torch.library, "register_fake", lenient):
        return pytest.importorskip(module)  # type: ignore[no-any-return]
