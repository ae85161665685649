"""What is done with a module: calls of many kinds, and what happens between them."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

from .sources import Source


@dataclasses.dataclass(frozen=True)
class Step:
    """A line that is run in each world, and what kind of step it is."""

    kind: str
    line: str


Change = Callable[[random.Random, Source, int], "Step | list[Step] | None"]


def steps_of(source: Source, count: int = 12) -> list[Step]:
    """The steps that a seed takes: ``count`` changes, with calls before and after each."""
    draw = random.Random(f"steps {source.seed}")
    first = [Step("accelerate", "model = accelerate(model)")]
    if draw.random() < 0.3:
        first.insert(0, Step("call", "with torch.no_grad(): call(0)"))
    steps = [*first, Step("mode", "model.eval()" if draw.random() < 0.8 else "model.train()")]
    # A plan is made when a shape comes again, so the first calls are of one shape.
    steps += [Step("call", f"with torch.no_grad(): call({seed})") for seed in range(1, 4)]
    if draw.random() < 0.6:
        steps += _training(draw, 4)
    seed = 10
    favourite = draw.choice(["infer", "infer", "train"])
    for _ in range(count):
        for change in _change(draw, source, seed):
            steps.append(change)
        seed += 10
        kind = favourite if draw.random() < 0.7 else draw.choice(["infer", "train", "other"])
        if kind == "infer":
            if draw.random() < 0.6:
                steps.append(Step("mode", "model.eval()"))
            steps += [Step("call", f"with torch.no_grad(): call({seed + i})") for i in range(draw.choice([1, 2, 3, 4]))]
        elif kind == "train":
            steps += _training(draw, seed)
        else:
            steps.append(_call(draw, source, seed))
            steps.append(Step("call", f"with torch.no_grad(): call({seed + 2})"))
    return steps


def _training(draw: random.Random, seed: int) -> list[Step]:
    mode = [Step("mode", "model.train()")] if draw.random() < 0.8 else []
    made = [Step("training call", f"backward({seed}, grad={draw.random() < 0.4})")]
    if draw.random() < 0.5:
        made.append(Step("training call", f"backward({seed + 1})"))
    if draw.random() < 0.15:
        made.append(Step("second derivative", f"second({seed}, grad=True)"))
    return mode + made


def _call(draw: random.Random, source: Source, seed: int) -> Step:
    """A call of a less usual kind."""
    how = draw.choice(
        [
            *["n=3", "n=1", "size=9", "size=12", "n=3, size=6", "layout='channels_last'", "layout='strided'"],
            *["layout='offset'", "layout='expanded'", "layout='transposed'", "n=0", "numbers='nan'", "numbers='inf'"],
            *["numbers='-inf'", "numbers='1e30'", "dtype='float64'", "dtype='bfloat16'", "grad=True", "numbers='0'"],
        ]
    )
    plain = ["with torch.no_grad(): {}", "with torch.inference_mode(): {}", "{}", "with autocast(): {}"]
    plain += ["with torch.no_grad(), torch.enable_grad(): {}", "torch.manual_seed(7); {}"]
    way = draw.randrange(10)
    if way <= 5:
        line = draw.choice(plain).format(f"call({seed}, {how})")
        return Step(f"call: {how}" if "no_grad" in line else f"call: {line.split('call')[0].strip(' :') or 'plain'}", line)
    if way == 6:
        return Step("backward with inputs", f"backward({seed}, {how})")
    others = [
        ("second derivative", "second({}, grad=True)"),
        ("functional_call", "functional({})"),
        ("torch.func.grad", "differential({})"),
        ("vmap", "mapped({})"),
        ("jvp", "jvp({})"),
        ("autocast", "with torch.no_grad(), autocast(): call({})"),
        ("autocast, training", "with autocast(): backward({})"),
        ("inference mode", "with torch.inference_mode(): call({})"),
        ("grad mode of the thread", "torch.set_grad_enabled(False); call({}); torch.set_grad_enabled(True)"),
        ("number of threads", "torch.set_num_threads(2)"),
        ("retained graph", "w.held = call({}); w.held2 = call({})"),
        ("call in a thread", "threads(1, {})"),
        ("dispatch mode", "with w.counting(): call({})"),
        ("function mode", "with w.overriding(): call({})"),
        ("saved tensors hooks", "with w.saving(): backward({})"),
        ("default dtype", "torch.set_default_dtype(torch.float64); call({}); torch.set_default_dtype(torch.float32)"),
        ("anomaly mode", "with torch.autograd.set_detect_anomaly(True): backward({})"),
        ("profiler", "with torch.profiler.profile(): call({})"),
        ("traced by fx", "w._see('fx', torch.fx.symbolic_trace(model)(*inputs({})[0]))"),
        ("subclass of tensor", "w._see('result', model(*(t.as_subclass(m.nn.Parameter) for t in inputs({})[0])))"),
        ("same tensor twice", "w.again({})"),
    ]
    if not source.effects:
        others += [("calls from threads", "threads(2, {})"), ("calls from threads", "threads(3, {})")]
    kind, line = draw.choice(others)
    return Step(kind, line.replace("{}", str(seed)))


def _change(draw: random.Random, source: Source, seed: int) -> list[Step]:
    """One change: half of the time of what the module's own source reads."""
    if source.handles and draw.random() < 0.5:
        handle = draw.choice(source.handles)
        return [Step(handle.kind, handle.line)]
    path, kind = draw.choice(source.layers) if source.layers else ("model", "")
    weighted = ("Conv", "Linear", "Norm", "Embedding", "PReLU")
    name = draw.choice(["weight", "weight", "bias"])
    tensor = f"{path}.{name}" if any(each in kind for each in weighted) else "list(model.parameters())[0]"
    if "BatchNorm" in kind and draw.random() < 0.4:
        tensor = f"{path}.{draw.choice(['running_mean', 'running_var'])}"
    block = path.rpartition(".")[0]
    # What doesn't make a plan useless, but what it has packed out of date.
    tensors: list[tuple[float, str, str]] = [
        (2, "data written", f"{tensor}.data.mul_(1.5)"),
        (1, "data written", f"{tensor}.data[0] = 0.25"),
        (1, "data copied", f"{tensor}.data.copy_(like({tensor}, {seed}))"),
        (2, "data set", f"{tensor}.data = like({tensor}, {seed})"),
        (1, "data set, other strides", f"{tensor}.data = like({tensor}, {seed}).contiguous(memory_format=torch.channels_last)"),
        (1, "data set, same memory", f"{tensor}.data = {tensor}.data.flip(0)"),
        (2, "written by NumPy", f"{tensor}.detach().numpy()[...] *= 1.5"),
        (1, "written by NumPy", f"w.array = {tensor}.detach().numpy(); w.array[0] = 0.5"),
        (1, "written by a kept array", "w.array[...] = w.array * 1.25" if draw.random() < 0.9 else "del w.array"),
        (2, "written without gradients", f"with torch.no_grad(): {tensor}.mul_(1.25)"),
        (1, "written in inference mode", f"with torch.inference_mode(): {tensor}.mul_(1.25)"),
        (1, "written through a view", f"w.view = {tensor}.detach().view(-1); w.view[0] = 2"),
        (1, "written through storage", f"{tensor}.untyped_storage().copy_(like({tensor}, {seed}).untyped_storage())"),
        (1, "set_", f"{tensor}.data.set_(like({tensor}, {seed}))"),
        (1, "set_", f"with torch.no_grad(): {tensor}.set_(like({tensor}, {seed}))"),
        (1, "swap_tensors", f"torch.utils.swap_tensors({tensor}, nn.Parameter(like({tensor}, {seed})))"),
        (1, "parameter replaced", f"{path}.{name} = nn.Parameter(like({tensor}, {seed}))"),
        (1, "parameter replaced", f"{path}._parameters['{name}'] = nn.Parameter(like({tensor}, {seed}))"),
        (0.5, "parameter replaced by None", f"{path}.{name} = None"),
        (0.5, "parameter deleted", f"del {path}.{name}; {path}.{name} = like({path}.{'bias' if name == 'weight' else 'weight'})"),
        (1, "parameter tied", f"{path}.{name} = list(model.parameters())[0]"),
        (1, "parameter's method", f"nn.init.normal_({tensor}, generator=torch.Generator().manual_seed(3))"),
        (1, "reset_parameters", f"{path}.reset_parameters()"),
        (1, "fill_ and zero_", f"{tensor}.data.zero_()"),
        (1, "foreach", f"torch._foreach_mul_([t.data for t in model.parameters()], 0.9)"),
        (1, "vector_to_parameters", "nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(model.parameters()) * 1.1, model.parameters())"),
        (1, "lerp of a copy (EMA)", "[p.data.lerp_(q.data, 0.5) for p, q in zip(model.parameters(), copy.deepcopy(list(model.parameters())))]"),
    ]
    others: list[tuple[float, str, str]] = [
        # optimisers
        (2, "SGD", "opt = torch.optim.SGD(model.parameters(), 0.1, momentum=0.5); backward(%d); opt.step(); opt.zero_grad()" % seed),
        (1, "SGD foreach", "opt = torch.optim.SGD(model.parameters(), 0.1, foreach=True); backward(%d); opt.step()" % seed),
        (1, "SGD fused", "opt = torch.optim.SGD(model.parameters(), 0.1, fused=True); backward(%d); opt.step()" % seed),
        (1, "Adam", "opt = torch.optim.Adam(model.parameters(), 0.05); backward(%d); opt.step()" % seed),
        (2, "Adam fused", "opt = torch.optim.Adam(model.parameters(), 0.05, fused=True); backward(%d); opt.step()" % seed),
        (1, "Adam foreach", "opt = torch.optim.Adam(model.parameters(), 0.05, foreach=True); backward(%d); opt.step()" % seed),
        (2, "optimiser's next step", f"backward({seed}); opt.step()"),
        (1, "optimiser with hooks", f"backward({seed}); [p.register_post_accumulate_grad_hook(lambda p: p.data.add_(p.grad, alpha=-0.1)) for p in model.parameters()]"),
        (1, "zero_grad", "model.zero_grad()"),
        (1, "zero_grad", "model.zero_grad(set_to_none=False)"),
        (1, "clipped gradients", f"backward({seed}); nn.utils.clip_grad_norm_(model.parameters(), 0.1)"),
        # state
        (2, "load_state_dict", "model.load_state_dict(scaled_state(1.25))"),
        (1, "load_state_dict, assigned", "model.load_state_dict(scaled_state(1.25), assign=True)"),
        (1, "load_state_dict, part", f"{path}.load_state_dict({path}.state_dict())"),
        # modes
        (2, "mode of a part", f"{path}.{draw.choice(['train', 'eval'])}()"),
        (1, "mode of a block", f"{block}.{draw.choice(['train', 'eval'])}()"),
        (1, "mode written", f"{path}.training = {draw.choice(['True', 'False'])}"),
        (2, "mode", f"model.{draw.choice(['train', 'eval'])}()"),
        (2, "requires_grad", f"{path}.requires_grad_({draw.choice(['True', 'False'])})"),
        (1, "requires_grad", f"model.requires_grad_({draw.choice(['True', 'False'])})"),
        # layouts and types
        (1, "float64 and back", f"cast(torch.float64); call({seed}); cast(torch.float32)"),
        (1, "float64", "cast(torch.float64)"),
        (0.5, "float32", "cast(torch.float32)"),
        (0.7, "bfloat16", f"cast(torch.bfloat16); call({seed}); cast(torch.float32)"),
        (2, "channels_last", "model.to(memory_format=torch.channels_last)"),
        (1, "contiguous", "model.to(memory_format=torch.contiguous_format)"),
        (0.5, "shared memory", "model.share_memory()"),
        # layers
        (2, "layer's attribute", f"{path}.{draw.choice(['stride', 'padding', 'dilation', 'eps', 'momentum', 'p', 'inplace', 'kernel_size', 'groups', 'negative_slope', 'num_groups', 'track_running_stats', 'ceil_mode', 'affine', 'padding_mode'])} = {draw.choice(['2', '(1, 1)', '0.5', '1', 'True', 'None'])}"),
        (1, "hook added", f"hook = {path}.register_forward_hook(lambda module, args, result: result * 0.5)"),
        (1, "hook added", f"hook = {path}.register_forward_hook(lambda module, args, result: m.LOG.append('hook'))"),
        (1, "hook added", f"hook = {path}.register_forward_pre_hook(lambda module, args: (args[0] + 1,))"),
        (1, "hook added", f"hook = {path}.register_full_backward_hook(lambda module, gi, go: tuple(g * 0.5 if g is not None else g for g in gi))"),
        (1, "hook added", f"hook = {block}.register_forward_hook(lambda module, args, result: m.LOG.append(1))"),
        (1, "hook of the model", "hook = model.register_forward_hook(lambda module, args, result: m.LOG.append('root'))"),
        (1, "hook of the model", "hook = model.register_forward_pre_hook(lambda module, args, kwargs: m.LOG.append('pre'), with_kwargs=True)"),
        (1, "hook of the model", "hook = model.register_full_backward_hook(lambda module, gi, go: m.LOG.append('back'))"),
        (1, "hook of a parameter", f"hook = {tensor}.register_hook(lambda g: g * 0.5)"),
        (2, "hook removed", "hook.remove()"),
        (0.7, "hook of all modules", f"with w.everywhere(lambda module, args, result: result * 1.5 if isinstance(result, torch.Tensor) else None): call({seed})"),
        (1, "layer's forward replaced", f"{path}.forward = lambda x: x * 0.5"),
        (1, "layer's forward put back", f"{path}.__dict__.pop('forward', None)"),
        (0.7, "forward of a class replaced", f"m.Model.forward = (lambda old: lambda self, *args, **kwargs: (old(self, *args, **kwargs), 1))(m.Model.forward)"),
        (0.7, "forward of the model replaced", f"model.forward = (lambda old: lambda *args, **kwargs: (old(*args, **kwargs), 2))(type(model).forward.__get__(model))"),
        (0.7, "__call__ of a class", "m.Model.__call__ = lambda self, *args, **kwargs: (nn.Module.__call__(self, *args, **kwargs), 3)"),
        (0.5, "function of PyTorch replaced", f"with w.patched(F, 'relu', lambda old: lambda x, inplace=False: x * 0.5): call({seed})"),
        (0.5, "method of PyTorch's layer replaced", f"with w.patched(nn.Conv2d, 'forward', lambda old: lambda self, x: old(self, x) * 2): call({seed})"),
        (1, "layer replaced", f"{path} = nn.Identity()"),
        (1, "layer replaced", f"{path} = copy.deepcopy({path})"),
        (1, "layer replaced", f"{path} = nn.Sequential({path}, nn.Tanh())"),
        (0.7, "layer replaced by a function", f"vars({block}).update({path.rpartition('.')[2].split('[')[0]}=torch.tanh)"),
        (0.7, "layer removed", f"del {path}"),
        (1, "layer added", f"{block}.add_module('extra', nn.Conv2d(1, 1, 1))"),
        (1, "layer's class changed", f"{path}.__class__ = type('Other', (type({path}),), {{'forward': lambda self, x: x + 1}})"),
        (1, "apply", "model.apply(lambda module: module.weight.data.mul_(1.1) if isinstance(module, nn.Conv2d) else None)"),
        (1, "weight_norm", f"nn.utils.parametrizations.weight_norm({path})"),
        (1, "old weight_norm", f"nn.utils.weight_norm({path})"),
        (0.7, "old weight_norm removed", f"nn.utils.remove_weight_norm({path})"),
        (1, "spectral_norm", f"nn.utils.parametrizations.spectral_norm({path})"),
        (1, "parametrization removed", f"m.parametrize.remove_parametrizations({path}, 'weight')"),
        (1, "pruning", f"m.prune.l1_unstructured({path}, 'weight', amount=0.4)"),
        (1, "pruning removed", f"m.prune.remove({path}, 'weight')"),
        (0.7, "fused for inference", "model.eval(); torch.nn.utils.fusion.fuse_conv_bn_eval(nn.Conv2d(4, 4, 1).eval(), nn.BatchNorm2d(4).eval())"),
        # copies
        (1, "copy.copy", "model = copy.copy(model)"),
        (1, "copy.copy, and the original", "other = copy.copy(model); other.training = not other.training"),
        (1, "deepcopy", "model = copy.deepcopy(model)"),
        (1, "deepcopy changed", f"other = copy.deepcopy(model); [p.data.mul_(2) for p in other.parameters()]; call({seed}, of=other)"),
        (1, "original changed after deepcopy", f"other, model = model, copy.deepcopy(model); [p.data.mul_(2) for p in other.parameters()]"),
        (1, "pickle", "model = pickled(model)"),
        (0.7, "torch.save", "model = w.saved(model)"),
        (0.7, "pickle, and the original", f"other = pickled(model); call({seed}, of=other)"),
        # acceleration
        (1, "restored", "restore(model)"),
        (1, "restored and accelerated again", "restore(model); model = accelerate(model)"),
        (1, "accelerated twice", "model = accelerate(model)"),
        (0.7, "a part accelerated", f"accelerate({block})"),
        (0.7, "a part restored", f"restore({block})"),
        (0.7, "a copy accelerated", f"model = accelerate(copy.deepcopy(model))"),
        (0.7, "called inside another", f"outer = nn.Sequential(model); call({seed}, of=outer)"),
        (0.7, "compiled by others", f"call({seed}, of=torch.compile(model, backend='eager'))"),
    ]  # fmt: skip
    options = tensors if source.simple and draw.random() < 0.5 else tensors + others
    place = draw.choices(range(len(options)), [weight for weight, *_ in options])[0]
    _, kind, line = options[place]
    return [Step(kind, line)]
