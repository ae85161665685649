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
from striate.tasks.exportable import Exportable, Results
from striate.training.checkpoint import own_copies

Compute: TypeAlias = Callable[[Tensor], Results]
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
            bytes, with the version that they are in. Images of sizes that the network takes stand for all such sizes.
        decode: from (bytes, network of that shape) to what computes with the file's content alone.
    """

    suffix: str
    tolerance: float
    encode: Callable[[Exportable, Tensor, Mapping[str, str], int | None], Encoded]
    decode: Callable[[bytes, Exportable], Compute]


#: Traced images have so many times the least side, and one unit more across: sizes that are equal by chance alone would
#: be taken for one.
_TRACED: Final = 2
#: What torch's exporter writes itself; older ones would be rewritten by a converter that gives up on many networks.
_OLDEST_OPSET: Final = 18
_LARGEST: Final = 2**31  # bytes of a protocol buffer


def _traced(form: Exportable, images: Tensor) -> torch.export.ExportedProgram:
    count, channels, height, width = images.shape
    axes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if form.takes((height, width)):
        unit, least = form.unit or 1, _TRACED * form.least
        height, width = least, least + unit
        for axis, name in ((2, "height"), (3, "width")):
            side = torch.export.Dim(name if unit == 1 else f"{name}_{unit}", min=form.least // unit)
            axes[axis] = side if unit == 1 else unit * side
    with _explained("torch.export"):
        # Of images only the shape counts here, and a program keeps what it was traced with: no one's photographs.
        program = torch.export.export(
            form.network, (images.new_zeros(count, channels, height, width),), dynamic_shapes=(axes,)
        )
    program._example_inputs = None
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of source code, with the folders that they lie in
    return program


def _onnx(form: Exportable, images: Tensor, metadata: Mapping[str, str], opset: int | None) -> Encoded:
    onnx = _library("onnx")
    _library("onnxscript")
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and not _OLDEST_OPSET <= opset <= newest:
        raise ExportError("opset", f"got {opset}", f"needed {_OLDEST_OPSET} to {newest}")
    size = sum(tensor.nbytes for tensor in form.network.state_dict().values())
    if size >= _LARGEST:
        raise ExportError("onnx", f"the network has {size:,} bytes", "needed less than 2 GiB", "take torch-export")
    traced = _traced(form, images)
    with _explained("onnx"):
        program = torch.onnx.export(
            traced,
            dynamo=True,
            input_names=["images"],
            output_names=list(form.outputs),
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


def _run_onnx(content: bytes, form: Exportable) -> Compute:
    runtime = _library("onnxruntime")
    with _explained("onnxruntime"):
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def compute(images: Tensor) -> Results:
        with _explained("onnxruntime"):
            found = session.run(None, {"images": images.numpy()})
        return tuple(map(torch.from_numpy, found))

    return compute


def _torch_export(form: Exportable, images: Tensor, metadata: Mapping[str, str], opset: int | None) -> Encoded:
    buffer = io.BytesIO()
    torch.export.save(_traced(form, images), buffer, extra_files=dict(metadata))
    return buffer.getvalue(), None


def _run_torch_export(content: bytes, form: Exportable) -> Compute:
    program = torch.export.load(io.BytesIO(content)).module()
    return lambda images: results(program, images)


def _safetensors(form: Exportable, images: Tensor, metadata: Mapping[str, str], opset: int | None) -> Encoded:
    return safetensors.torch.save(own_copies(form.network.state_dict()), dict(metadata)), None


def _run_safetensors(content: bytes, form: Exportable) -> Compute:
    twin = copy.deepcopy(form.network)
    for tensor in twin.state_dict().values():
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)  # what the file doesn't have shows
    twin.load_state_dict(safetensors.torch.load(content))
    return lambda images: results(twin, images)


def results(network: Callable[[Tensor], Any], images: Tensor) -> Results:
    """What a network gives, as a tuple of tensors."""
    found = network(images)
    return (found,) if isinstance(found, Tensor) else tuple(found)


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
