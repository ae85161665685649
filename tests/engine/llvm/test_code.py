"""Machine code: every instruction set's, its cache, and running it from forks and threads."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from problems import BACKEND

from cases import conv, operands
from striate.engine import FORM, Pass, openmp
from striate.engine.llvm.codegen import ir, isa, launch, machine_code
from striate.engine.llvm.conv_pool import output, sparse, sparse_input_grad, sparse_weight_grad
from striate.engine.llvm.convolution import (
    nchw,
    nchw_weight,
    nhwc,
    nhwc_depthwise,
    nhwc_depthwise_weight,
    nhwc_weight,
    pointwise_weight,
)
from striate.engine.llvm.functions import elementwise, epilogue
from striate.engine.llvm.memory import relayout
from striate.engine.llvm.memory.rows import Axis
from striate.engine.llvm.normalization import layer as layer_normalization
from striate.engine.llvm.pooling import nchw as pooling_nchw
from striate.engine.llvm.pooling import nchw_grad
from striate.engine.llvm.pooling import nhwc as pooling_nhwc
from striate.engine.llvm.winograd import forms as winograd_forms
from striate.engine.llvm.winograd import kernels as winograd
from striate.engine.llvm.winograd import pooled as winograd_pooled
from striate.errors import BackendError

AXIS = Axis(3, 1, 1, 1)


def both(axis: Axis) -> tuple[Axis, Axis]:
    return axis, axis


def kernels(target: isa.Isa) -> dict[str, object]:
    """One kernel of every family, with every way of packing rows among them."""
    made = {}
    for stride in (1, 2, 3):
        axis = Axis(3, stride, 1, 1)
        made[f"output {stride}"] = nchw.generate(
            target, axis, axis, nchw.PlaneTile.choose(target, 16, both(axis), 14, 14)
        )
        made[f"depthwise {stride}"] = nchw.generate(
            target, axis, axis, nchw.PlaneTile.choose(target, 1, both(axis), 14, 14)
        )
    across = nchw.PlaneTile.choose(target, 3, both(AXIS), 14, 32)
    made["output across"] = nchw.generate(target, AXIS, AXIS, across, across=True)
    for outer, inner in ((16, 8), (1, 1)):
        weights = nchw_weight.WeightTile.choose(target, outer, inner, both(AXIS))
        made[f"weight {outer}"] = nchw_weight.generate(target, AXIS, AXIS, weights)
    made["nhwc output"] = nhwc.generate(target, nhwc.ChannelTile.choose(target, 32, 14))
    for backwards in (False, True):
        tile = nhwc_depthwise.Columns.choose(target, AXIS, 14, backwards)
        each = nhwc_depthwise.generate(target, AXIS, AXIS, tile.together, backwards)
        made[f"nhwc depthwise {backwards}"] = each
    made["nhwc weight"] = nhwc_weight.generate(target, nhwc_weight.TapTile.choose(target, 32, 3))
    point = pointwise_weight.PointTile.choose(target, 24, 40, 2)
    made["pointwise weight"] = pointwise_weight.generate(target, point, 3)
    deep = nhwc_depthwise_weight.DepthwiseTile.choose(target, AXIS, AXIS, 14)
    made["nhwc depthwise weight"] = nhwc_depthwise_weight.generate(target, AXIS, AXIS, deep)
    made["maximum"] = pooling_nchw.generate_maximum(target, AXIS, AXIS, "i16")
    joined = output.Windows(AXIS, AXIS, 2, 2)
    made["nchw pooled"] = output.generate(target, joined, "i16", "relu6")
    made["nchw pooled, nhwc"] = output.generate_nhwc(target, joined, epilogue.Epilogue("tanh"))
    for side_by_side in (False, True):
        geometry = sparse.Geometry(AXIS, AXIS, Axis(2, 2, 0, 1), 6, side_by_side, "i16")
        made[f"sparse weight {side_by_side}"] = sparse_weight_grad.generate(target, geometry)
        made[f"sparse input {side_by_side}"] = sparse_input_grad.generate(
            target, geometry, geometry.kernel_rows(target)
        )
    made["average"] = pooling_nchw.generate_average(target, AXIS, AXIS)
    made["maximum grad"] = pooling_nchw.generate_maximum_grad(target, "i32")
    made["average grad"] = pooling_nchw.generate_average_grad(target, AXIS, AXIS)
    for index in ("", "i16", "i32", "i64"):
        made[f"nchw spread {index}"] = nchw_grad.generate(target, AXIS, AXIS, 3, index)
    for index in ("i16", "i32", "i64"):
        made[f"nhwc maximum grad {index}"] = pooling_nhwc.generate_maximum_grad(target, AXIS, AXIS, 3, index)
    for index in ("", "i16", "i32"):
        made[f"nhwc maximum {index}"] = pooling_nhwc.generate_maximum(target, AXIS, AXIS, 3, index)
    made["nchw largest"] = pooling_nchw.generate_largest(target, AXIS, AXIS)
    made["nhwc average"] = pooling_nhwc.generate_average(target, AXIS, AXIS, 3)
    for name in epilogue.FUNCTIONS:
        settings = {"clamp": (0.0, 6.0), "elu": (1.0, 1.0, 1.0), "leaky_relu": (0.1,), "softplus": (1.0, 20.0)}
        numbers = settings.get(name, ())
        after = epilogue.Epilogue(name, numbers, adds=True)
        made[f"pairs {name}"] = elementwise.generate_pairs(target, "fmul", epilogue.Epilogue(name, numbers))
        made[f"direct {name}"] = nhwc.generate(target, nhwc.ChannelTile(2, 2), after, direct=True)
    form, tile = winograd_forms.WinogradForm(4, 3), nhwc.ChannelTile(2, 2)
    made["winograd"] = winograd.generate(target, form, tile, epilogue.Epilogue("clamp", (0.0, 6.0), adds=True))
    for index in ("i16", "i32"):
        made[f"winograd pooled {index}"] = winograd_pooled.generate(target, form, tile, "relu6", index)
    made["winograd largest"] = winograd_pooled.generate_largest(target, form, tile, epilogue.Epilogue("tanh"))
    for side in ("outer", "inner", ""):
        made[f"winograd weights {side}"] = winograd.generate_weights(target, form, 2, side)
    for other in (False, True):
        made[f"winograd parts {other}"] = winograd.generate_parts(target, form, other)
        made[f"winograd products {other}"] = winograd.generate_products(target, form, tile, other)
    made["transpose"] = relayout.generate(target)
    for back in (False, True):
        made[f"transpose few {back}"] = relayout.generate_few(target, 6, back)
    made["layer norm"] = layer_normalization.generate(target)
    made["copy"] = elementwise.generate_copy(target)
    made["nhwc average grad"] = pooling_nhwc.generate_average_grad(target, AXIS, AXIS, 3)
    return made


TARGETS = (*isa.ISAS, isa.AVX512.shorter)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_instruction_set_gets_code(target: isa.Isa) -> None:
    for name, function in kernels(target).items():
        code = machine_code.to_object(launch.module(function), target)
        assert code[:4] == b"\x7fELF" or sys.platform != "linux", name


def test_an_instruction_set_gets_some_code() -> None:
    """One kernel of every ten."""
    for name, function in list(kernels(isa.X86_64).items())[::10]:
        code = machine_code.to_object(launch.module(function), isa.X86_64)
        assert code[:4] == b"\x7fELF" or sys.platform != "linux", name


@pytest.mark.parametrize("target", isa.ISAS, ids=lambda target: target.name)
def test_a_tile_fits_the_registers_and_keeps_the_multipliers_busy(target: isa.Isa) -> None:
    for channels, width in [(1, 56), (3, 14), (6, 28), (64, 56), (64, 7)]:
        tile = nchw.PlaneTile.choose(target, channels, both(AXIS), 16, width)
        totals = tile.channels * tile.rows * tile.vectors
        assert totals + min(tile.channels, tile.rows * tile.vectors) + 2 <= target.registers
        assert totals >= min(8, channels * 16)


def test_the_host_s_instruction_set_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIATE_ISA", "sse9")
    isa.host.cache_clear()
    try:
        with pytest.raises(BackendError, match="needed one of avx512, avx2, x86-64, neon"):
            isa.host()
        found = isa.best("x86_64", {})
        assert found is isa.X86_64
        assert isa.best("arm64", {}) is isa.NEON
        assert isa.best("riscv64", {}) is None
        able = dict.fromkeys([*isa.AVX512.needs, *isa.AVX2.needs], True)
        assert isa.best("x86_64", able) is isa.AVX512
        assert isa.best("x86_64", able | {"avx512dq": False}) is isa.AVX2
        assert isa.best("arm64", {}, proven=True) is None
    finally:
        isa.host.cache_clear()


def test_short_rows_and_halves_of_vectors_get_shorter_vectors() -> None:
    short = isa.AVX512.shorter
    assert short is not None
    assert [isa.AVX512.fitting(n) is short for n in (1, 8, 9, 16, 17)] == [True, True, False, False, False]
    assert [isa.AVX512.dividing(n) is short for n in (8, 12, 16, 24, 48)] == [True, False, False, True, False]
    assert isa.AVX2.fitting(1) is isa.AVX2.dividing(4) is isa.AVX2


# -------------------------------------------------------------------- arguments


def test_arguments_are_passed_by_their_names() -> None:
    target = isa.the_isa()
    kernel = launch.Kernel(relayout.generate(target), target)
    names = ["x", "y", "rows", "columns", "strips"]
    given = dict(zip(names, range(5), strict=True))
    assert kernel.words(**dict(reversed(given.items()))) == [0, 1, 2, 3, 4]
    wrong = {"columns": 3, "strips": 4, "lines": 2}
    for start in (
        lambda: kernel.words(x=0, y=1, **wrong),
        lambda: kernel(1, 1, x=0, y=1, **wrong),
        lambda: kernel.bound(("x", "y"), 1, 1, **wrong),
    ):
        with pytest.raises(TypeError, match=r"transpose: missing \['rows'\], unknown \['lines'\]"):
            start()


def test_two_arguments_of_a_kernel_have_different_names() -> None:
    function = ir.Function("kernel", isa.the_isa())
    function.pointer("x")
    for read in (function.size, function.pointer, function.real, function.double):
        with pytest.raises(AssertionError, match="kernel has two arguments named x"):
            read("x")


# -------------------------------------------------------------------- the cache


def _code() -> tuple[str, isa.Isa]:
    target = isa.host()
    assert target is not None
    return launch.module(pooling_nchw.generate_maximum_grad(target, "i16")), target


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STRIATE_CACHE_DIR", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def _entry(cache: Path) -> Path:
    (entry,) = cache.glob("*.o")
    return entry


def test_code_is_kept_and_found_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = machine_code.code(*_code())
    if os.name == "posix":
        assert stat.S_IMODE(_entry(cache).stat().st_mode) == 0o600
        assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    monkeypatch.setattr(machine_code, "to_object", lambda *a: pytest.fail("compiled again"))
    assert machine_code.code(*_code()) == made
    assert not list(cache.glob("*.partial"))


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:50], lambda b: b[:-1], lambda b: b"\0" * len(b)])
def test_a_damaged_entry_is_built_again(cache: Path, damage) -> None:
    made = machine_code.code(*_code())
    entry = _entry(cache)
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert machine_code.code(*_code()) == made
    assert entry.read_bytes() == whole


def test_one_wrong_bit_is_seen(cache: Path) -> None:
    made = machine_code.code(*_code())
    entry = _entry(cache)
    content = bytearray(entry.read_bytes())
    content[-5] ^= 1
    entry.write_bytes(content)
    assert machine_code.code(*_code()) == made


def test_a_folder_that_cannot_be_written_costs_compiling_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("STRIATE_CACHE_DIR", str(file / "inside"))
    assert machine_code.code(*_code())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("STRIATE_CACHE_DIR", str(tmp_path / "full"))
    monkeypatch.setattr(os, "replace", full)
    assert machine_code.code(*_code())
    assert not list((tmp_path / "full").iterdir())


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_tolerated(cache: Path) -> None:
    cache.mkdir(mode=0o500)
    assert machine_code.code(*_code())


def test_another_instruction_set_or_ir_is_another_entry() -> None:
    ir, target = _code()
    names = {machine_code.key(ir, target), machine_code.key(ir + "\n", target), machine_code.key(ir, isa.X86_64)}
    assert len(names) == 3 or target is isa.X86_64


PROGRAM = """
import torch
from striate.engine import FORM, Pass, openmp
from striate.engine.llvm import LlvmBackend
from striate.geometry import ConvShape
shape = ConvShape.parse("conv2d 2x3x9x9 4x3x3x3 padding=1")
x, w = torch.ones(shape.input_shape), torch.ones(shape.weight_shape)
print(LlvmBackend().contract(shape, Pass.OUTPUT, x, w, None).sum().item())
"""


@pytest.mark.slow
def test_processes_share_a_folder(cache: Path) -> None:
    started = [subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate()[0] for process in started]
    assert said[0] == said[1] == b"15000.0\n"
    assert not list(cache.glob("*.partial"))


# -------------------------------------------------------------------- forks and threads


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_fork_after_use_computes() -> None:
    shape = conv("conv2d 4x3x20x20 8x3x3x3 padding=1")
    made = operands(shape, torch.float32)
    first, second = made[Pass.INPUT_GRAD], made[Pass.WEIGHT_GRAD]
    torch.set_num_threads(2)
    try:
        expected = BACKEND.contract(shape, Pass.OUTPUT, first, second, None)
        # The child does nothing of PyTorch's that takes threads: those would wait for ever for their parent's.
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            code = 1
            try:
                code = int(not torch.equal(BACKEND.contract(shape, Pass.OUTPUT, first, second, None), expected))
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("together", [True, False])
def test_eight_threads_at_once(together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not together:
        monkeypatch.setattr(openmp, "runtime", lambda: None)
    shape = conv("conv2d 4x3x20x20 8x3x3x3 padding=1")
    made = operands(shape, torch.float32)
    jobs = [(open_, *(made[role] for role in FORM if role is not open_), None) for open_ in FORM]
    wrong = []
    torch.set_num_threads(2)
    try:
        expected = [BACKEND.contract(shape, *job) for job in jobs]

        def work() -> None:
            for _ in range(20):
                for job, right in zip(jobs, expected, strict=True):
                    if not torch.equal(BACKEND.contract(shape, *job), right):
                        wrong.append(job[0])

        workers = [threading.Thread(target=work) for _ in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        torch.set_num_threads(1)
    assert not wrong


@pytest.mark.parametrize(
    ("told", "size"), [("1024K\n", 1 << 20), ("64K", 1 << 18), ("8192K", 1 << 21), ("big", 1 << 19)]
)
def test_blocks_go_by_the_second_level_cache(told: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isa.Path, "read_text", lambda self: told)
    assert isa.second_level_cache.__wrapped__() == size


# Addresses in the way: code fits nowhere above 16 GiB of them, constants do.
FULL = """
import ctypes, mmap, torch, striate
c = ctypes.CDLL(None)
c.mmap.restype = ctypes.c_void_p
c.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
c.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

def reserve(pages):
    return c.mmap(None, pages * mmap.PAGESIZE, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)

def convolve(kernel):
    x, w = torch.ones(1, 3, 9, 9), torch.randn(5, 3, kernel, 3)
    torch.testing.assert_close(striate.ops.conv2d(x, w), torch.nn.functional.conv2d(x, w))

with striate.engine.use("llvm"):
    convolve(1)
    pages = [reserve(1) for _ in range(64)]
    wall = reserve(1 << 22)
    for count in (1 << 14, 1 << 10, 256, 64, 16, 8, 4, 3, 2, 1):
        while (at := reserve(count)) > wall:
            pass
        c.munmap(at, count * mmap.PAGESIZE)
    for at in pages[::2]:
        c.munmap(at, mmap.PAGESIZE)
    for kernel in range(2, 8):
        convolve(kernel)
print("fine")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it knows where Linux puts memory")
def test_code_is_linked_also_where_addresses_are_scarce() -> None:
    done = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("fine\n", "")
