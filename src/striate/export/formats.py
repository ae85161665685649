"""The formats: how a network becomes the bytes of a file, and how such bytes compute."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import safetensors.torch
import torch
from torch import Tensor

from striate.errors import ExportError, is_out_of_memory
from striate.ops import graphs
from striate.training.checkpoint import own_copies

Compute: TypeAlias = Callable[[Tensor], Tensor]
Encoded: TypeAlias = tuple[bytes, int | None]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Args:
        suffix: of its name.
        tolerance: how far a result may be from the network's own, as a share of the largest output (of 1, if all are
            smaller). 1e-4 leaves room for sums in another order: with the very statistics of its images an untrained
            MobileNetV2 in float32 is 4e-5 from itself in float64.
        encode: from (network in evaluation mode, images, metadata, ONNX's version of operators or None) to the file's
            bytes, with the version that they are in.
        decode: from (bytes, network of that shape) to what computes with the file's content alone.
    """

    suffix: str
    tolerance: float
    encode: Callable[[torch.nn.Module, Tensor, Mapping[str, str], int | None], Encoded]
    decode: Callable[[bytes, torch.nn.Module], Compute]


#: How the batch is told to be of any size.
_DYNAMIC: Final = ({0: torch.export.Dim("batch")},)
#: What torch's exporter writes itself; older ones would be rewritten by a converter that gives up on many networks.
_OLDEST_OPSET: Final = 18
_LARGEST: Final = 2**31  # bytes of a protocol buffer


def _traced(model: torch.nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    with _explained("torch.export"):
        # Of images only the shape counts here, and a program keeps what it was traced with: no one's photographs.
        program = torch.export.export(model, (torch.zeros_like(images),), dynamic_shapes=_DYNAMIC)
    program._example_inputs = None
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of source code, with the folders that they lie in
    return program


def _onnx(model: torch.nn.Module, images: Tensor, metadata: Mapping[str, str], opset: int | None) -> Encoded:
    onnx = _library("onnx")
    _library("onnxscript")
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and not _OLDEST_OPSET <= opset <= newest:
        raise ExportError("opset", f"got {opset}", f"needed {_OLDEST_OPSET} to {newest}")
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    if size >= _LARGEST:
        raise ExportError("onnx", f"the network has {size:,} bytes", "needed less than 2 GiB", "take torch-export")
    traced = _traced(model, images)
    with _explained("onnx"):
        program = torch.onnx.export(
            traced,
            dynamo=True,
            dynamic_shapes=_DYNAMIC,
            input_names=["images"],
            output_names=["logits"],
            opset_version=opset,
            custom_translation_table=graphs.translations(),
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # how the exporter came to it
    program.model.metadata_props.update(metadata)
    written = program.model.opset_imports[""]
    if opset is not None and written != opset:
        raise ExportError("opset", f"the network can't be written in {opset}", remedy=f"leave it out for {written}")
    return program.model_proto.SerializeToString(), written


def _run_onnx(content: bytes, model: torch.nn.Module) -> Compute:
    runtime = _library("onnxruntime")
    with _explained("onnxruntime"):
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def compute(images: Tensor) -> Tensor:
        with _explained("onnxruntime"):
            (logits,) = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(logits)

    return compute


def _torch_export(model: torch.nn.Module, images: Tensor, metadata: Mapping[str, str], opset: int | None) -> Encoded:
    buffer = io.BytesIO()
    torch.export.save(_traced(model, images), buffer, extra_files=dict(metadata))
    return buffer.getvalue(), None


def _run_torch_export(content: bytes, model: torch.nn.Module) -> Compute:
    return torch.export.load(io.BytesIO(content)).module()


def _safetensors(model: torch.nn.Module, images: Tensor, metadata: Mapping[str, str], opset: int | None) -> Encoded:
    return safetensors.torch.save(own_copies(model.state_dict()), dict(metadata)), None


def _run_safetensors(content: bytes, model: torch.nn.Module) -> Compute:
    twin = copy.deepcopy(model)
    for tensor in twin.state_dict().values():
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)  # what the file doesn't have shows
    twin.load_state_dict(safetensors.torch.load(content))
    return twin


#: ONNX Runtime and others read the first, PyTorch without striate the second; the third has weights alone.
FORMATS: Final[Mapping[str, Format]] = {
    "onnx": Format(".onnx", 1e-4, _onnx, _run_onnx),
    "torch-export": Format(".pt2", 1e-4, _torch_export, _run_torch_export),
    "safetensors": Format(".safetensors", 0.0, _safetensors, _run_safetensors),
}


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ExportError("onnx", f"{error.name} isn't installed", remedy="pip install 'striate[export]'") from error


@contextlib.contextmanager
def _explained(where: str) -> Iterator[None]:
    """Failures as one line, without what exporters log and print meanwhile for those who work on them."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore", FutureWarning)
            yield
    except Exception as error:
        if is_out_of_memory(error):
            raise ExportError(where, "ran out of memory", remedy="export where there is more of it") from error
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = str(cause).strip().partition("\n")[0] or type(cause).__name__
        raise ExportError(where, f"can't take this network ({reason})") from error
    finally:
        logging.disable(before)
