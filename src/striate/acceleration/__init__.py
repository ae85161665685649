"""Any model, computed by the engine: its layers become striate's, its functional calls go to striate.ops."""

from striate.acceleration.inference import plan_of
from striate.acceleration.model import accelerate, restore

__all__ = ["accelerate", "plan_of", "restore"]
