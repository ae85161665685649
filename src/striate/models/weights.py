"""Weights from files and from the Hugging Face hub. Nothing in a file is executed."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from striate.data import Preprocessing
from striate.errors import DataError, ModelError, WeightsWarning
from striate.models.naming import translated
from striate.models.older_weights import renewed

HUB: Final = "hf-hub:"
SUFFIXES: Final = (".safetensors", ".pth", ".pt", ".bin")
#: What a repository's weights are called, the better name first.
_HUB_FILES: Final = ("model.safetensors", "pytorch_model.bin")
#: What weights in a folder are called: a run's, and those that were fetched from the hub.
_FOLDER_FILES: Final = ("weights.safetensors", *_HUB_FILES)
#: Where training programs put the parameters among what else they save.
_WITHIN: Final = ("state_dict", "model")


def load_weights(model: torch.nn.Module, source: str | os.PathLike[str], *, new_head: bool = False) -> None:
    """Gives ``model`` the parameters that a file holds.

    Names are the model's own (which are torchvision's where torchvision has the network), those that torchvision had
    before version 0.13, or timm's.

    Args:
        model: any network.
        source: a .safetensors or a PyTorch file (.pth, .pt, .bin), a folder with one (a run's), or
            ``"hf-hub:OWNER/REPO"``, with ``@REVISION`` if it isn't to be the newest.
        new_head: where all fits but the number of classes, leave the model's head as it is, and warn. The head is what
            the model names in ``head_keys``, or its last linear layer.

    Raises:
        ModelError: weights that can't be had or read, names or shapes that are not the model's; the model is left as it
            was.
    """
    where = os.fspath(source)
    own = model.state_dict()
    found = translated(renewed(read_weights(source)), own)
    found, missing = _with_spare_parts(model, found)
    # A counter of batches that training alone reads: older files don't have it, and frozen layers don't want it.
    needed = {name for name in own.keys() | found.keys() if not name.endswith("num_batches_tracked")}
    wrong = [
        name for name in sorted(needed) if name not in own or name not in found or own[name].shape != found[name].shape
    ]
    if wrong and new_head and (replaced := _head(model, wrong, found)):
        warnings.warn(
            f"{where}: {replaced}, and stays random",
            WeightsWarning,
            stacklevel=3,
        )
    elif wrong:
        listed = ", ".join(
            f"{name} {_shape(found, name, 'missing')} instead of {_shape(own, name, 'none')}" for name in wrong[:3]
        )
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ModelError(where, f"weights of another model: {listed}{more}", remedy=_other_channels(own, found))
    model.load_state_dict({name: tensor for name, tensor in found.items() if name not in wrong}, strict=False)
    for part in missing:
        warnings.warn(f"{where}: {part} isn't in it, and stays random", WeightsWarning, stacklevel=3)


def _with_spare_parts(model: torch.nn.Module, found: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """``found`` without the spare parts that the model hasn't, and with its own random ones where the file lacks them.

    A part that the model names in ``spare_parts`` only helps it to learn. The names of those that lack come second.
    """
    own = model.state_dict()
    complete, missing = dict(found), []
    for part in getattr(model, "spare_parts", ()):
        mine, theirs = ({name for name in names if name.startswith(f"{part}.")} for names in (own, found))
        if not mine:
            complete = {name: tensor for name, tensor in complete.items() if name not in theirs}
        elif not theirs:
            complete |= {name: own[name] for name in mine}
            missing.append(part)
    return complete, missing


@dataclass(frozen=True)
class About:
    """What weights say of themselves.

    Args:
        preprocessing: of the pictures that they were trained on; None where they don't say.
        classes: the names of the outputs; empty where they don't say.
    """

    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] = ()


def about_weights(source: str | os.PathLike[str]) -> About:
    """What is known of weights besides their numbers.

    A .safetensors file of striate's has it in its metadata; weights of timm, from the hub or a folder, in the file
    ``config.json`` beside them.

    Args:
        source: what :func:`load_weights` takes.

    Raises:
        ModelError: weights that can't be had; a description that can't be.
    """
    path = weights_file(source)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                said = file.metadata() or {}
            if "about" in said:  # of a run
                about = json.loads(said["about"])
                return About(Preprocessing.from_dict(about["preprocessing"]), tuple(map(str, about["classes"])))
            if "preprocessing" in said:  # of an export, which has what striate reads beside words for people
                preprocessing = Preprocessing.from_dict(json.loads(said["preprocessing"])["striate"])
                return About(preprocessing, tuple(map(str, json.loads(said["classes"]))))
        config = _config(source, path)
        timm = config.get("pretrained_cfg", config)
        names = config.get("label_names")
        classes = tuple(map(str, names)) if isinstance(names, list) else ()
        return About(Preprocessing.of_timm(timm) if isinstance(timm, Mapping) else None, classes)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            str(path), f"no readable weights ({getattr(error, 'strerror', None) or error})", "needed a whole file"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, DataError) as error:
        raise ModelError(str(path), f"says what can't be of its preprocessing ({error})") from error


def _config(source: str | os.PathLike[str], path: Path) -> dict[str, Any]:
    """What ``config.json`` beside a weights' file says; nothing where there is none."""
    beside = path.with_name("config.json")
    if not beside.exists() and str(source).startswith(HUB):
        try:
            beside = Path(_downloaded(str(source), ("config.json",)))
        except ModelError:
            return {}  # weights without a description, or without a connection to fetch it
    if not beside.is_file():
        return {}
    found = json.loads(beside.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def weights_file(source: str | os.PathLike[str]) -> Path:
    """The file that a source of weights means: itself, that of a repository on the hub, that in a folder.

    Raises:
        ModelError: a repository that can't be reached, a folder without weights.
    """
    if str(source).startswith(HUB):
        return Path(_downloaded(str(source), _HUB_FILES))
    path = Path(source)
    if not path.is_dir():
        return path
    for name in _FOLDER_FILES:
        if (path / name).is_file():
            return path / name
    raise ModelError(str(path), "a folder without weights", "needed " + " or ".join(_FOLDER_FILES) + " in it")


def located(source: str) -> str:
    """A source of weights whose file, if it is one, is told from the root.

    >>> located("pretrained"), located("hf-hub:timm/resnet18.a1_in1k")
    ('pretrained', 'hf-hub:timm/resnet18.a1_in1k')
    """
    return str(Path(source).absolute()) if Path(source).exists() else source


def read_weights(source: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The named tensors of what :func:`load_weights` takes, on the CPU.

    Raises:
        ModelError: weights that can't be had or read.
    """
    path = weights_file(source)
    if path.suffix not in SUFFIXES:
        raise ModelError(str(path), f"got a file named {path.name!r}", "needed one that ends in " + ", ".join(SUFFIXES))
    try:
        loaded: Any = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            str(path), f"no readable weights ({getattr(error, 'strerror', None) or error})", "needed a whole file"
        ) from error
    for key in _WITHIN:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in loaded.items()
    ):
        raise ModelError(str(path), "holds something else than named tensors", "needed a model's state_dict")
    return dict(loaded)


def _unpickled(path: Path) -> Any:
    """What torch.save wrote, if it consists of tensors, numbers, text and containers of them."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # damaged bytes bring forth all kinds, as flipping them at random has shown
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise ModelError(
                str(path),
                "holds more than tensors, and reading that could run code",
                "needed a state_dict",
                "save model.state_dict(), or a .safetensors file",
            ) from error
        # PyTorch's own words go on for lines, and advise to read such a file without care.
        raise ModelError(str(path), "no readable weights: cut off, damaged, or not from torch.save") from error


def _downloaded(source: str, names: Sequence[str]) -> str:
    """The first of some files that a repository on the hub has, from the local cache where it lies there."""
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise ModelError(source, "needs huggingface_hub", "pip install 'striate[pretrained]'") from error
    except RuntimeError as error:  # it looks for the user's home when it is imported
        raise ModelError(source, f"can't be fetched ({error})", "needed a home folder, or HF_HOME") from error
    repository, _, revision = source.removeprefix(HUB).partition("@")
    where: dict[str, Any] = {"repo_id": repository, "revision": revision or None}
    try:
        # Without a connection each file is waited for in vain, so the one that the cache has comes first.
        for name in sorted(names, key=lambda name: hub.try_to_load_from_cache(filename=name, **where) is None):
            try:
                return str(hub.hf_hub_download(filename=name, **where))
            except hub.errors.RemoteEntryNotFoundError:
                continue
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(source, f"can't be had ({reason})", "needed hf-hub:OWNER/REPO and a connection") from error
    raise ModelError(source, "holds no weights", "needed " + " or ".join(names) + " in the repository")


def _head(model: torch.nn.Module, wrong: list[str], found: Mapping[str, Tensor]) -> str:
    """What differs of the model's head, if all else fits and the number of classes explains it; else nothing."""
    own = model.state_dict()
    keys = [key for key in _head_keys(model) if any(name.startswith(f"{key}.") for name in wrong)]
    if any(not name.startswith(tuple(f"{key}." for key in keys)) or name not in found for name in wrong):
        return ""
    if any(own[name].shape[1:] != found[name].shape[1:] for name in wrong):
        return ""
    classes = int(getattr(model, "num_classes", len(own[wrong[0]])))
    # Some tensors have several rows for each class, all as many as in the file.
    theirs = {len(found[name]) * classes / len(own[name]) for name in wrong}
    if len(theirs) > 1:
        return ""
    return f"{' and '.join(keys)} is for {theirs.pop():g} classes, this network's for {classes}"


def _head_keys(model: torch.nn.Module) -> tuple[str, ...]:
    """The names of the layers that hold a row, or several, for each class."""
    last = [name for name, layer in model.named_modules() if _mixes_channels(layer)][-1:]
    return tuple(getattr(model, "head_keys", last))


def _mixes_channels(layer: torch.nn.Module) -> bool:
    """Whether a layer may be a head: a linear one, or a 1x1 convolution."""
    return isinstance(layer, torch.nn.Linear) or (isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (1, 1))


def _other_channels(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """What to do where the first layer alone tells that the weights are for images of other channels."""
    for name, tensor in own.items():
        if tensor.dim() != 4 or name not in found or found[name].dim() != 4:
            continue
        here, there = tensor.shape, found[name].shape
        if here[1] != there[1] and here[:1] + here[2:] == there[:1] + there[2:]:
            return f"these weights take images of {there[1]} channels: in_channels={there[1]}, --channels {there[1]}"
        break
    return ""


def _shape(tensors: Mapping[str, Tensor], name: str, absent: str) -> str:
    return str(tuple(tensors[name].shape)) if name in tensors else absent
