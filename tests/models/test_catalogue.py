"""The catalogue says without PyTorch what the networks' files say with it."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import torch

from striate import models
from striate.models import registry
from striate.models.catalogue import FAMILIES, MODULES


def test_the_catalogue_is_the_register() -> None:
    for each in pkgutil.iter_modules(models.__path__):
        importlib.import_module(f"striate.models.{each.name}")
    own = {name: entry for name, entry in registry._ENTRIES.items() if entry.module.startswith("striate.models.")}
    assert {name: registry._module(name) for name in MODULES} == {name: entry.module for name, entry in own.items()}
    for family in FAMILIES:
        module = f"striate.models.{family.module}"
        assert family.networks == {name: each.description for name, each in own.items() if each.module == module}
        # in the order of the file as well
        assert {own[name].task for name in family.networks} == {family.task}
        assert list(family.networks) == [name for name, each in own.items() if each.module == module]
        assert family.about == (importlib.import_module(module).__doc__ or "").partition("\n")[0]


def test_own_networks_join_the_catalogue() -> None:
    def mine(num_classes: int = 2, in_channels: int = 1) -> object:
        """Mine."""

    before = dict(registry._ENTRIES)
    try:
        models.register(mine)  # type: ignore[type-var]
        assert models.names()[-1] == "mine"
        assert models.describe("mine") == "Mine."
        assert models.families()[(__doc__ or "").partition("\n")[0]] == ("mine",)
    finally:
        registry._ENTRIES.clear()
        registry._ENTRIES.update(before)


@pytest.mark.parametrize("name", [*models.names("detection"), *models.names("instance")])
def test_detectors_say_which_of_their_parts_the_engine_computes(name: str) -> None:
    with torch.device("meta"):
        model = models.create(name)
    assert type(model).dense
    assert all(isinstance(model.get_submodule(part), torch.nn.Module) for part in type(model).dense)
    assert callable(type(model).dense_maps)
