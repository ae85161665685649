"""Any model, computed by the engine: captured by PyTorch's Dynamo, put together in blocks, planned for inference."""

from striate.acceleration.model import accelerate, blocks_of, choices_of, plan_of, restore
from striate.acceleration.plans.weights import look_again

__all__ = ["accelerate", "blocks_of", "choices_of", "look_again", "plan_of", "restore"]
