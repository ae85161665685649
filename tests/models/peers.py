"""Networks of torchvision and timm, where these are installed."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch


def peer(monkeypatch: pytest.MonkeyPatch, library: str, name: str, **options: Any) -> torch.nn.Module:
    """A network of ``torchvision`` or ``timm`` with random weights."""
    register = torch.library.register_fake

    def lenient(operator: Any, *arguments: Any, **named: Any) -> Any:
        # Without its compiled part torchvision has no operators to register a shape for.
        if isinstance(operator, str) and operator.startswith("torchvision::"):
            return lambda function: function
        return register(operator, *arguments, **named)

    monkeypatch.setattr(torch.library, "register_fake", lenient)
    pytest.importorskip(library)
    if library == "timm":
        return importlib.import_module("timm").create_model(name, **options)  # type: ignore[no-any-return]
    return getattr(importlib.import_module("torchvision.models"), name)(**options)  # type: ignore[no-any-return]
