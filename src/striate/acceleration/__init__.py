"""Computes any model with the engine: captured by PyTorch's Dynamo, fused into blocks, planned for inference."""

from striate.acceleration.model import accelerate, blocks_of, choices_of, plan_of, restore
from striate.acceleration.plans.weights import look_again

__all__ = ["accelerate", "blocks_of", "choices_of", "look_again", "plan_of", "restore"]
