"""Initial weights that several papers share."""

from __future__ import annotations

import torch


def kaiming_fan_out(model: torch.nn.Module) -> None:
    """Gives every convolution normal weights of variance 2 / fan-out and no bias; the rest of ``model`` stays.

    Source: He et al., "Delving deep into rectifiers" (2015), equation 14 (which keeps gradients, not activations, of
    one size); batch normalisation already starts as the identity.
    """
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)


def normal_linear(model: torch.nn.Module, std: float = 0.01) -> None:
    """Gives every linear layer normal weights of deviation ``std`` and no bias; the rest of ``model`` stays."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, 0, std)
            torch.nn.init.zeros_(layer.bias)


def normal_convolutions(model: torch.nn.Module, std: float) -> None:
    """Gives every convolution normal weights of deviation ``std`` and no bias; the rest of ``model`` stays."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.normal_(layer.weight, 0, std)
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)


def xavier_convolutions(model: torch.nn.Module) -> None:
    """Gives every convolution uniform weights of variance 2 / (fan-in + fan-out) and no bias.

    Source: Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks" (2010),
    equation 16.
    """
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)
