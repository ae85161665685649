"""Modules written as few are, and what people do with modules: an accelerated one goes through all of it as it would.

Results are compared with the same module's that wasn't accelerated, from the same state and the same random numbers.
What PyTorch refuses of the one has to be refused of the other.
"""

from __future__ import annotations

import copy
import functools
import gc
import os
import pickle
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accuracy import tensors
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from unusual import CASES, Case, block, conv, two

import striate
from striate.export import FORMATS, Subject, export

#: Modules that are left to `make test-all`: others are like them.
SLOW = {
    "spectral norm by hooks",
    "weight norm by hooks",
    "a dataclass",
    "until it stays",
    "parameters alone",
    "functions of functions",
    "a context",
    "three dimensions",
    "a wrapper",
    "words",
    "frequencies",
    "targets without gradients",
    "a straight-through estimator",
    "a pyramid",
    "shuffled channels",
    "a U",
}
QUICK = [name for name in CASES if name not in SLOW]


def modules(quick: list[str]) -> pytest.MarkDecorator:
    """All modules; those that aren't ``quick`` are slow."""
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in quick)) for name in CASES]
    )


def alike(mine: Sequence[Tensor | None], theirs: Sequence[Tensor | None], what: str) -> None:
    """The same up to rounding, which is that of terms as large as the largest number of all."""
    assert [each is None for each in mine] == [each is None for each in theirs], what
    pairs = [(one, other) for one, other in zip(mine, theirs, strict=True) if one is not None and other is not None]
    largest = max((other.abs().max().item() for _, other in pairs if other.numel()), default=0.0)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5 * largest, msg=lambda told: f"{what}: {told}")


def pair(case: Case) -> tuple[nn.Module, nn.Module]:
    """The module as it is, and accelerated; made twice, since not all of them can be copied."""
    made = []
    for _ in range(2):
        torch.manual_seed(1)
        made.append(case.make())
    return made[0], striate.accelerate(made[1], quiet=True)


def moded(case: Case, model: nn.Module, train: bool) -> nn.Module:
    model.train(train)
    case.settle(model)
    return model


def told(compute: Callable[[nn.Module], list[Tensor | None]], model: nn.Module) -> list[Tensor | None] | type:
    """What a model comes to, from the same random numbers; the class of the error if it is refused."""
    torch.manual_seed(5)
    try:
        return compute(model)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return type(error)


def agree(
    compute: Callable[[nn.Module], list[Tensor | None]], model: nn.Module, fast: nn.Module, what: str, refused: str = ""
) -> None:
    """Both come to the same; that is an error where it is what is ``refused``, and only there."""
    theirs, mine = told(compute, model), told(compute, fast)
    if isinstance(theirs, type) or isinstance(mine, type):
        assert what == refused, (what, theirs, mine)
        assert theirs == mine, what
        return
    assert what != refused, what
    alike(mine, theirs, what)


def leaves(inputs: tuple[Any, ...]) -> list[Tensor]:
    """Inputs that gradients can be asked of, which they are from now on."""
    return [each.requires_grad_() for each in tensors(inputs)]


def loss_of(result: Any) -> Tensor:
    """A sum of all results with coefficients of different sizes, and of their squares."""
    total = torch.zeros(())
    for each in tensors(result):
        coefficients = torch.randn(each.shape, generator=torch.Generator().manual_seed(each.dim()))
        total = total + (each * coefficients).mean() + each.square().mean()
    return total


@pytest.mark.usefixtures("planning")
@modules(QUICK[::3])
def test_evaluation(name: str) -> None:
    """Calls of one size until plans are taken, then of another one; what is kept on the way is the same as well."""
    case = CASES[name]
    model, fast = pair(case)
    for each in (model, fast):
        moded(case, each, False)
    for batch in (2, 2, 2, 2, 3):
        inputs = case.inputs(batch)
        with torch.no_grad():
            agree(lambda each: tensors(each(*inputs)), model, fast, f"{batch} images")  # noqa: B023 - called at once
    alike([*fast.buffers()], [*model.buffers()], "buffers")


@modules(QUICK[3::6])
def test_derivatives_of_other_kinds(name: str) -> None:
    """Gradients in evaluation, of each sample, and of gradients."""
    case = CASES[name]
    model, fast = pair(case)
    for each in (model, fast):
        moded(case, each, False)
    inputs = case.inputs(2)
    agree(lambda each: gradients(each, inputs), model, fast, "gradients in evaluation")
    agree(lambda each: of_each_sample(each, inputs), model, fast, "each sample", case.refused)
    for each in (model, fast):
        moded(case, each, True)
    agree(lambda each: penalties(each, inputs), model, fast, "gradients of gradients", case.refused)
    alike([*fast.buffers()], [*model.buffers()], "buffers")


@modules(QUICK[1::3])
def test_training(name: str) -> None:
    """Gradients, by the inputs as well; then five steps."""
    case = CASES[name]
    model, fast = pair(case)
    for each in (model, fast):
        moded(case, each, True)
    inputs = case.inputs(2)
    agree(lambda each: gradients(each, inputs), model, fast, "gradients in training")
    steps = {each: torch.optim.SGD(each.parameters(), 0.05, momentum=0.9) for each in (model, fast)}
    for batch in (3, 3, 3, 3, 2):
        inputs = case.inputs(batch)
        agree(lambda each: step(each, steps[each], inputs), model, fast, "loss")  # noqa: B023 - called at once
    alike([*fast.parameters()], [*model.parameters()], "parameters")
    alike([*fast.buffers()], [*model.buffers()], "buffers")
    assert fast.state_dict().keys() == model.state_dict().keys()


def wanted(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def gradients(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor | None]:
    given = copy.deepcopy(inputs)
    asked = [*leaves(given), *wanted(model)]
    result = model(*given)
    return [*tensors(result), *torch.autograd.grad(loss_of(result), asked, allow_unused=True)]


def penalties(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor | None]:
    """Of gradients by the inputs, or by the parameters where inputs are none that one can derive by."""
    given = copy.deepcopy(inputs)
    by = leaves(given) or wanted(model)
    first = torch.autograd.grad(loss_of(model(*given)), by, create_graph=True)
    penalty = torch.stack([each.square().sum() for each in first]).sum()
    return [*first, *torch.autograd.grad(penalty, wanted(model), allow_unused=True)]


def of_each_sample(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor | None]:
    def loss(state: dict[str, Tensor], *sample: Any) -> Tensor:
        return loss_of(functional_call(model, state, torch.utils._pytree.tree_map(lambda leaf: leaf[None], sample)))

    state = {name: p.detach() for name, p in model.named_parameters()}
    axes = (None, *[0] * len(inputs))
    return list(vmap(grad(loss), axes, randomness="different")(state, *inputs).values())


def step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: tuple[Any, ...]) -> list[Tensor | None]:
    optimizer.zero_grad()
    loss = loss_of(model(*inputs))
    loss.backward()
    optimizer.step()
    return [loss.detach()]


# ------------------------------------------------------------------------------------------- what is done with models

Accelerate = Callable[[nn.Module], nn.Module]


def network(features: int = 3) -> nn.Module:
    """Two blocks, a dropout and a head, for images of 12x12."""
    return nn.Sequential(
        block(), nn.Dropout(0.2), block(4, 8), nn.Flatten(), nn.Linear(72, 4), nn.SiLU(), nn.Linear(4, features)
    )


def batch(seed: int, count: int = 4) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def grads(model: nn.Module) -> list[Tensor | None]:
    return [p.grad for p in model.parameters()]


def state(model: nn.Module) -> list[Tensor | None]:
    return [each.clone() for each in model.state_dict().values()]


def checkpointed(accelerate: Accelerate) -> list[Tensor | None]:
    """The whole, its parts from outside, parts that are accelerated, and a whole that is called both ways."""
    found: list[Tensor | None] = []
    for reentrant in (True, False):
        again = functools.partial(checkpoint, use_reentrant=reentrant)
        whole, parts, single = accelerate(network()), accelerate(network()), network()
        for at in (0, 2):
            accelerate(single[at])
        for seed in range(3):
            x = batch(seed).requires_grad_()
            y = again(single[2], again(single[0], x))
            total = (
                again(whole, x).square().sum() + whole(x).sum() + checkpoint_sequential(parts, 3, x, reentrant).sum()
            )
            (total + y.square().sum()).backward()
            found.append(x.grad)
        for each in (whole, parts, single):
            found += [*grads(each), *state(each)]
    return found


def kept_elsewhere(accelerate: Accelerate) -> list[Tensor | None]:
    """What backward needs, on the CPU by PyTorch's hooks, and rounded by hooks of one's own."""
    model = accelerate(network())
    for seed in range(3):
        with torch.autograd.graph.save_on_cpu():
            model(batch(seed)).square().mean().backward()
        double = torch.autograd.graph.saved_tensors_hooks(
            lambda x: x.double() if x.dtype is torch.float32 else x,
            lambda x: x.float() if x.dtype is torch.float64 else x,
        )
        with double:
            y = model(batch(seed))
        y.square().mean().backward()
    return [*grads(model), *state(model)]


def averages(accelerate: Accelerate) -> list[Tensor | None]:
    """Moving averages of a network, by ``data`` and by PyTorch's class, and a target that follows slowly."""
    model, found = accelerate(network()), []
    mean, target = accelerate(copy.deepcopy(model)).eval(), accelerate(copy.deepcopy(model)).eval()
    swa = accelerate(AveragedModel(model))
    ema = accelerate(AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for seed in range(6):
        with torch.no_grad():
            wanted = target(batch(seed))
        optimizer.zero_grad()
        (model(batch(seed)) - wanted - 1).square().mean().backward()
        optimizer.step()
        for mine, theirs in zip(mean.state_dict().values(), model.state_dict().values(), strict=True):
            mine.data.copy_(mine.data * 0.7 + theirs.data * 0.3)
        if seed == 2:
            target.load_state_dict(model.state_dict())
        for mine, theirs in zip(target.parameters(), model.parameters(), strict=True):
            mine.data.lerp_(theirs.data, 0.1)
        for each in (swa, ema):
            each.update_parameters(model)  # type: ignore[operator]
            each.eval()
        with torch.no_grad():
            found += [wanted, mean(batch(9)), swa(batch(9)), ema(batch(9))]
    return [*found, *state(model)]


def adversaries(accelerate: Accelerate) -> list[Tensor | None]:
    """A generator, and a discriminator with a gradient penalty that is called three times for a step."""
    maker = accelerate(
        nn.Sequential(
            nn.ConvTranspose2d(4, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 3), nn.Tanh()
        )
    )
    judge = accelerate(
        nn.Sequential(parametrizations.spectral_norm(conv(3, 8)), nn.LeakyReLU(0.2), nn.MaxPool2d(2), conv(8, 1))
    )
    optimizers = [torch.optim.SGD(each.parameters(), 0.05) for each in (maker, judge)]
    losses: list[Tensor | None] = []
    for seed in range(4):
        fake, real = maker(torch.randn(4, 4, 6, 6)), batch(seed)
        mixed = (0.3 * real + 0.7 * fake.detach()).requires_grad_()
        (slope,) = torch.autograd.grad(judge(mixed).sum(), mixed, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        judged = F.softplus(judge(fake.detach())).mean() + F.softplus(-judge(real)).mean() + penalty
        optimizers[1].zero_grad()
        judged.backward()
        optimizers[1].step()
        made = F.softplus(-judge(fake)).mean()
        optimizers[0].zero_grad()
        made.backward()
        optimizers[0].step()
        losses += [judged.detach(), made.detach()]
    return [*losses, *state(maker), *state(judge)]


def twins(accelerate: Accelerate) -> list[Tensor | None]:
    """One model called several times before backward, whose gradients of several batches add up."""
    model, found = accelerate(network()), []
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for seed in range(3):
        for part in range(2):
            one, other = model(batch(seed)), model(batch(seed + part) / 2)
            loss = (one - other).square().mean() + model(batch(seed)[:2]).mean()
            loss.backward(retain_graph=part == 0)
            found.append(loss.detach())
        optimizer.step()
        optimizer.zero_grad(set_to_none=seed == 0)
    return [*found, *state(model)]


def recurrent(accelerate: Accelerate) -> list[Tensor | None]:
    """A cell called five times a step, whose state goes on without gradients."""
    cell = accelerate(nn.Sequential(conv(7, 4, bias=False), nn.BatchNorm2d(4), nn.Tanh()))
    optimizer, hidden, found = torch.optim.SGD(cell.parameters(), 0.1), torch.zeros(2, 4, 6, 6), []
    for _ in range(3):
        loss = torch.zeros(())
        for _ in range(5):
            hidden = cell(torch.cat([torch.randn(2, 3, 6, 6), hidden], 1))
            loss = loss + hidden.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        hidden = hidden.detach()
        found += [loss.detach(), hidden]
    return [*found, *state(cell)]


def exported(accelerate: Accelerate) -> list[Tensor | None]:
    model, x = accelerate(network().eval()), batch(1)
    with torch.no_grad():
        found = [model(x) for _ in range(3)]
        sizes = ({0: torch.export.Dim("batch")},)
        for strict in (False, True):
            program = torch.export.export(model, (batch(0, 2),), dynamic_shapes=sizes, strict=strict)
            assert not any("striate" in str(node.target) for node in program.graph.nodes)
            found.append(program.module()(x))
        found += [torch.jit.trace(model, batch(0, 2))(x), torch.jit.script(model)(x)]
        found += [torch.fx.symbolic_trace(model)(x), make_fx(model)(x)(x)]
    return found


def written_as_onnx(accelerate: Accelerate) -> list[Tensor | None]:
    model, x = accelerate(network().eval()), batch(1)
    with torch.no_grad():
        model(x)
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(model, "mine", ("a", "b", "c"), {}, x)
        file = export(subject, "onnx", f"{folder}/model.onnx").path
        return list(FORMATS["onnx"].decode(file.read_bytes(), subject.form)(x))


def copies(accelerate: Accelerate) -> list[Tensor | None]:
    """They are plain models, and independent."""
    model, x = accelerate(network().eval()), batch(1)
    found = [model(x)]
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            found.append(again(x))
            again[-1].weight.mul_(2)
            found += [again(x), model(x)]
    return found


def transformed(accelerate: Accelerate) -> list[Tensor | None]:
    """Derivatives of all kinds by torch.func and by forward-mode differentiation; an ensemble as one."""
    model, x = accelerate(network(2).eval()), batch(1, 2)
    found = [model(x), *torch.func.jvp(model, (x,), (torch.ones_like(x),))]
    with forward_ad.dual_level():
        found += [*forward_ad.unpack_dual(model(forward_ad.make_dual(x, torch.ones_like(x))))][:2]
    found += [torch.func.jacrev(model)(x), torch.func.jacfwd(model)(x[:, :, :4, :4].repeat(1, 1, 3, 3))]
    found += [torch.autograd.functional.hvp(lambda x: model(x).square().sum(), x, x)[1]]
    others = [network(2).eval() for _ in range(2)]
    parameters, buffers = torch.func.stack_module_state(others)
    found.append(vmap(lambda p, b: functional_call(model, (p, b), (x,)))(parameters, buffers))
    for other in others:
        found.append(functional_call(model, (dict(other.named_parameters()), dict(other.named_buffers())), (x,)))
    return found


def adapted_by_gradients(accelerate: Accelerate) -> list[Tensor | None]:
    """Gradients through a step of learning, with parameters that are none of the model's."""
    model, found = accelerate(network()), []
    own = {name: (p.detach() * 1.1).requires_grad_() for name, p in model.named_parameters()}
    torch.manual_seed(2)
    first = functional_call(model, own, (batch(1),)).square().mean()
    slopes = torch.autograd.grad(first, list(own.values()), create_graph=True)
    moved = {name: p - 0.1 * slope for (name, p), slope in zip(own.items(), slopes, strict=True)}
    second = functional_call(model, moved, (batch(2),)).square().mean()
    found += [first, second, *torch.autograd.grad(second, list(own.values()))]
    return found


def hooked(accelerate: Accelerate) -> list[Tensor | None]:
    """Hooks that come and go, and change what they see on its way forward and back."""
    model, found, seen = accelerate(network()), [], list[Tensor]()

    def go() -> None:
        for train in (True, False):
            x = batch(1).requires_grad_()
            model.train(train).zero_grad()
            torch.manual_seed(4)
            model(x).square().mean().backward()
            found.extend([x.grad, *grads(model)])
            with torch.no_grad():
                found.append(model(x))

    go()
    conv_, norm, relu = model[0][0], model[0][1], model[2][2]  # type: ignore[index]
    handles = []
    for register in (
        lambda: conv_.register_forward_hook(lambda _, given, made: made * 2),
        lambda: norm.register_full_backward_hook(lambda _, given, made: (given[0] * 3,)),
        lambda: relu.register_full_backward_pre_hook(lambda _, made: (made[0] / 2,)),
        lambda: conv_.weight.register_hook(lambda slope: slope * 7),
        lambda: model[2].register_forward_pre_hook(lambda _, given: (given[0] + 1,)),  # type: ignore[index]
        lambda: norm.register_forward_hook(lambda _, given, made: seen.append(made.detach().clone())),
        lambda: model.register_forward_hook(lambda _, given, made: made + 1),
    ):
        handles.append(register())
        go()
    for handle in handles:
        handle.remove()
    go()
    return [*found, *seen]


def in_other_numbers(accelerate: Accelerate) -> list[Tensor | None]:
    """Under autocast and back, moved to float64 and back."""
    model, found = accelerate(network().eval()), []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            found.append(model(batch(1)))
        found.append(model(batch(1)))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found.append(model(batch(1)))
        found.append(model.double()(batch(1).double()))
        model.float()
    assert [each.dtype for each in found[:4]] == [torch.bfloat16, torch.float32, torch.bfloat16, torch.float64]
    return found


def laid_out_otherwise(accelerate: Accelerate) -> list[Tensor | None]:
    """Channels last, slices and copies of an image, an empty batch; results lie as they did."""
    model, found = accelerate(nn.Sequential(block(), conv(4, 4))), []
    x = batch(1)
    inputs = [x, x.to(memory_format=torch.channels_last), x[:, :, ::2], x.mT, x[:1].expand(4, -1, -1, -1), x[:0]]
    for recorded in (True, False):
        for layout in (torch.channels_last, torch.contiguous_format):
            model.to(memory_format=layout)
            for each in inputs:
                for train in (True, False):
                    if train and not len(each):
                        continue
                    with torch.set_grad_enabled(recorded):
                        y = model.train(train)(each)
                    found += [y, torch.tensor(y.stride(), dtype=torch.float32)]
    return found


def divided(accelerate: Accelerate) -> list[Tensor | None]:
    """DataParallel without devices, and SyncBatchNorm in a process alone."""
    model = accelerate(network())
    parallel = nn.DataParallel(model)
    for seed in range(2):
        parallel(batch(seed)).square().mean().backward()
    synced = accelerate(nn.SyncBatchNorm.convert_sync_batchnorm(network()))
    return [*grads(model), synced(batch(1)), synced.eval()(batch(1))]


def by_several_threads(accelerate: Accelerate) -> list[Tensor | None]:
    model, images = accelerate(network().eval()), [batch(seed, 1 + seed % 3) for seed in range(6)]

    def work(number: int) -> list[Tensor]:
        with torch.no_grad():
            return [model(images[(at + number) % 6]) for at in range(24)]

    with ThreadPoolExecutor(4) as pool:
        return [each for found in pool.map(work, range(4)) for each in found]


def called_by_name(accelerate: Accelerate) -> list[Tensor | None]:
    model, x = accelerate(CASES["arguments by name"].make()), batch(1)
    found = [model(x), model(x=x), model(x, 2.0), model(x, scale=2.5, flip=True), model(x, other=torch.ones(1))]
    with torch.no_grad():
        for scale in (1.0, 2.0, 3.0, 4.0):
            found += [model(x, scale), model(x, flip=scale > 2)]
    return found


def drawn_by_numpy(accelerate: Accelerate) -> list[Tensor | None]:
    """Noise from NumPy's generator, whose seed decides it."""

    def compute(self: Any, x: Tensor) -> Tensor:
        return self.first(x) * torch.from_numpy(np.random.rand(3, 1, 1).astype(np.float32))

    model, found = accelerate(two(compute)()), []
    for seed in range(2):
        np.random.seed(seed)
        found += [model(batch(1)), model(batch(1))]
    return found


WAYS = [
    checkpointed,
    kept_elsewhere,
    averages,
    adversaries,
    twins,
    recurrent,
    exported,
    written_as_onnx,
    copies,
    transformed,
    adapted_by_gradients,
    hooked,
    in_other_numbers,
    laid_out_otherwise,
    divided,
    by_several_threads,
    called_by_name,
    drawn_by_numpy,
]
QUICK_WAYS = [kept_elsewhere, twins, copies, transformed, adapted_by_gradients, divided, called_by_name, drawn_by_numpy]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::UserWarning")
@pytest.mark.parametrize(
    "way",
    [
        # What most ask for these ask for as well, of less.
        pytest.param(way, marks=[pytest.mark.slow] * (way not in QUICK_WAYS))
        for way in WAYS
    ],
    ids=lambda way: way.__name__,
)
def test_what_is_done_with_models(way: Callable[[Accelerate], list[Tensor | None]], planning: None) -> None:
    results = []
    for accelerate in (lambda model: model, lambda model: striate.accelerate(model, quiet=True)):
        torch.manual_seed(6)
        results.append(way(accelerate))
    theirs, mine = results
    assert len(mine) == len(theirs) > 0
    for at, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.dtype == other.dtype
            rough = {"rtol": 2e-2, "atol": 2e-2} if one.dtype is torch.bfloat16 else {"rtol": 1e-3, "atol": 1e-5}
            torch.testing.assert_close(one, other, **rough, msg=lambda told, at=at: f"result {at}: {told}")


@pytest.mark.slow
def test_a_model_that_is_gone_leaves_nothing(planning: None) -> None:
    """Dynamo holds on to what it has captured; not to the model, nor to plans and the weights packed for them."""

    def made() -> list[weakref.ref[Any]]:
        model = striate.accelerate(network(), quiet=True)
        model(batch(1)).sum().backward()
        with torch.no_grad():
            for _ in range(3):
                model.eval()(batch(1))
        return [weakref.ref(each) for each in (model, *vars(model)["_compiled_call_impl"].graphs)]

    gone = made()
    gc.collect()
    assert len(gone) > 2
    assert [each() for each in gone] == [None] * len(gone)


DISTRIBUTED = """
import json, os, sys
import torch
import torch.distributed as dist
from torch import nn
import striate
from unusual import block

torch.set_num_threads(1)
# They meet, as torchrun's processes do, at a port that is open already.
asked, told = os.pipe()
children = []
for rank in range(2):
    if (child := os.fork()) == 0:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                       "MASTER_PORT": os.read(asked, 5).decode(),
                       "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
        dist.init_process_group("gloo")
        results = []
        for accelerate in (lambda model: model, lambda model: striate.accelerate(model, quiet=True)):
            torch.manual_seed(0)
            model = accelerate(nn.Sequential(block(), block(4, 4), nn.Flatten(), nn.Linear(36, 3)))
            # Buckets of a parameter each, and steps whose gradients are sent later.
            together = nn.parallel.DistributedDataParallel(model, bucket_cap_mb=1e-4)
            optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
            torch.manual_seed(rank)
            for step in range(4):
                optimizer.zero_grad()
                x = torch.randn(3, 3, 12, 12)
                if step % 2:
                    with together.no_sync():
                        together(x / 2).square().mean().backward()
                together(x).square().mean().backward()
                optimizer.step()
            results.append(list(model.state_dict().values()))
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
        assert vars(model)["_compiled_call_impl"].graphs
        os._exit(0)
    children.append(child)
meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
os.write(told, b"%05d" % meeting.port * 2)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the processes that train together")
def test_several_processes() -> None:
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.pathsep.join(paths)}
    arguments = [sys.executable, "-c", DISTRIBUTED]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, env=environment)
    assert done.stdout.strip() == "[0, 0]", done.stderr
