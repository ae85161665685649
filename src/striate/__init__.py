"""striate: convolutional networks on PyTorch that people can compute fast, train, measure exactly and see inside."""

from striate import engine, models, nn, ops
from striate.errors import StriateError
from striate.geometry import ConvShape, PoolShape, Window

__version__ = "0.1.0"

__all__ = ["ConvShape", "PoolShape", "StriateError", "Window", "engine", "models", "nn", "ops"]
