"""Any model, computed by the engine: its layers become striate's, its functional calls go to striate.ops."""

from striate.acceleration.forward import blocks_of
from striate.acceleration.inference import plan_of
from striate.acceleration.model import accelerate, restore

__all__ = ["accelerate", "blocks_of", "plan_of", "restore"]
