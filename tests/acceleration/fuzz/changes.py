"""What is done with a module: calls of many kinds, and what happens between them.

The tables have a line a change: how often it is taken, what kind of change it is, and the line of Python that makes it.
In these ``{path}`` is a layer, ``{block}`` the module that holds it, ``{name}`` one of its tensors, ``{tensor}`` where
that is, ``{seed}`` a number.
"""

from __future__ import annotations

import dataclasses
import random

from .sources import Source


@dataclasses.dataclass(frozen=True)
class Step:
    """A line that is run in each world, and what kind of step it is."""

    kind: str
    line: str


#: What makes no plan useless, but what it has packed out of date.
TENSORS = """
2    data written                {tensor}.data.mul_(1.5)
1    data written                {tensor}.data[0] = 0.25
1    data written                {tensor}.data.zero_()
1    data copied                 {tensor}.data.copy_(like({tensor}, {seed}))
2    data set                    {tensor}.data = like({tensor}, {seed})
1    data set, other strides     {tensor}.data = w.other_strides({tensor})
1    data set, other layout      {tensor}.data = {tensor}.data.to(memory_format=torch.channels_last)
1    data set, same memory       {tensor}.data = {tensor}.data.flip(0)
0.7  data set, other shape       {tensor}.data = {tensor}.data[:2]
2    written by NumPy            {tensor}.detach().numpy()[...] *= 1.5
1    written by NumPy            w.array = {tensor}.detach().numpy(); w.array[0] = 0.5
1    written by a kept array     w.array[...] = w.array * 1.25
1    written without gradients   with torch.no_grad(): {tensor}.mul_(1.25)
1    written without gradients   with torch.no_grad(): {tensor}.copy_(like({tensor}, {seed}))
1    written in inference mode   with torch.inference_mode(): {tensor}.mul_(1.25)
1    written through a view      w.view = {tensor}.detach().view(-1); w.view[0] = 2
1    written through a kept view w.view.mul_(1.5)
1    written through storage     {tensor}.untyped_storage().copy_(like({tensor}, {seed}).untyped_storage())
1    written by ctypes           poke({tensor}, 0.75)
1    written in a thread         in_thread(lambda: {tensor}.data.mul_(1.5))
1    set_                        {tensor}.data.set_(like({tensor}, {seed}))
1    set_                        with torch.no_grad(): {tensor}.set_(like({tensor}, {seed}))
1    swap_tensors                torch.utils.swap_tensors({tensor}, nn.Parameter(like({tensor}, {seed})))
1    parameter replaced          {tensor} = nn.Parameter(like({tensor}, {seed}))
1    parameter replaced          {path}._parameters['{name}'] = nn.Parameter(like({tensor}, {seed}))
1    parameter replaced          setattr({path}, '{name}', nn.Parameter({tensor}.detach().clone()))
0.5  parameter replaced by None  {path}.{name} = None
0.5  parameter deleted           w.old = {tensor}; del {path}.{name}; {path}.{name} = w.old.detach() * 2
1    parameter tied              {path}.{name} = list(model.parameters())[0]
1    parameter tied              {tensor}.data = list(model.parameters())[-1].data.view({tensor}.shape)
1    initialised                 nn.init.normal_({tensor}, generator=torch.Generator().manual_seed(3))
1    initialised                 {path}.reset_parameters()
1    initialised                 model.apply(lambda each: [p.data.mul_(1.1) for p in each.parameters(recurse=False)])
1    foreach                     torch._foreach_mul_([p.data for p in model.parameters()], 0.9)
1    foreach                     with torch.no_grad(): torch._foreach_add_(list(model.parameters()), 0.1)
1    vector_to_parameters        nn.utils.vector_to_parameters(torch.cat([p.flatten() for p in own()]), own())
1    moving average              [p.data.lerp_(like(p, {seed}), 0.5) for p in own()]
1    buffers written             [each.add_(1) for each in model.buffers()]
2    SGD                         opt = torch.optim.SGD(own(), 0.1, momentum=0.5); backward({seed}); opt.step()
1    SGD foreach                 opt = torch.optim.SGD(own(), 0.1, foreach=True); backward({seed}); opt.step()
1    SGD fused                   opt = torch.optim.SGD(own(), 0.1, fused=True); backward({seed}); opt.step()
1    Adam                        opt = torch.optim.Adam(own(), 0.05); backward({seed}); opt.step()
2    Adam fused                  opt = torch.optim.Adam(own(), 0.05, fused=True); backward({seed}); opt.step()
1    Adam foreach                opt = torch.optim.Adam(own(), 0.05, foreach=True); backward({seed}); opt.step()
2    optimiser's next step       backward({seed}); opt.step(); opt.zero_grad()
2    optimiser's next step       opt.step()
1    step in the backward pass   [p.register_post_accumulate_grad_hook(w.descend) for p in own()]; backward({seed})
2    load_state_dict             model.load_state_dict(scaled_state(1.25))
1    load_state_dict, assigned   model.load_state_dict(scaled_state(1.25), assign=True)
1    load_state_dict, part       {path}.load_state_dict({path}.state_dict())
1    state_dict written          [each.add_(1) for each in model.state_dict().values()]
1    functional_call             functional({seed})
"""

OTHERS = """
1    zero_grad                   model.zero_grad()
1    zero_grad                   model.zero_grad(set_to_none=False)
1    clipped gradients           backward({seed}); nn.utils.clip_grad_norm_(own(), 0.1)
2    mode of a part              {path}.train()
2    mode of a part              {path}.eval()
1    mode of a block             {block}.train()
1    mode of a block             {block}.eval()
1    mode written                {path}.training = True
1    mode written                vars({path})['training'] = False
1    mode                        model.train()
1    mode                        model.eval()
2    requires_grad               {path}.requires_grad_(False)
1    requires_grad               {path}.requires_grad_(True)
1    requires_grad               model.requires_grad_(False)
1    requires_grad               {tensor}.requires_grad = not {tensor}.requires_grad
1    float64 and back            cast(torch.float64); call({seed}); cast(torch.float32)
1    float64                     cast(torch.float64)
0.5  float32                     cast(torch.float32)
0.7  bfloat16                    cast(torch.bfloat16); call({seed}); cast(torch.float32)
0.7  a part in another dtype     {path}.double()
2    channels_last               model.to(memory_format=torch.channels_last)
1    contiguous                  model.to(memory_format=torch.contiguous_format)
0.5  shared memory               w.array = np.zeros(1); model.share_memory()
8    layer's attribute           {path}.{attribute}
1    hook added                  hook = {path}.register_forward_hook(lambda module, args, result: result * 0.5)
1    hook added                  hook = {path}.register_forward_hook(w.logging('hook'))
1    hook added                  hook = {path}.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
1    hook added                  hook = {path}.register_full_backward_hook(lambda module, gi, go: (go[0] * 0.5,))
1    hook added                  hook = {path}.register_full_backward_pre_hook(lambda module, go: (go[0] * 0.5,))
1    hook added                  hook = {block}.register_forward_hook(w.logging('block'))
1    hook added, always called   hook = {path}.register_forward_hook(w.logging('always'), always_call=True)
1    hook through the dictionary {path}._forward_hooks[1000] = lambda module, args, result: result * 0.5
1    hook of the model           hook = model.register_forward_hook(w.logging('root'))
1    hook of the model           hook = model.register_forward_pre_hook(w.logging('pre'), with_kwargs=True)
1    hook of the model           hook = model.register_full_backward_hook(w.logging('back'))
1    hook of a parameter         hook = {tensor}.register_hook(lambda g: g * 0.5)
3    hook removed                hook.remove()
0.7  hook of all modules         with w.everywhere(w.logging('all')): call({seed})
0.7  hook of all modules         with w.everywhere(lambda module, args, result: result * 1.5): call({seed})
1    layer's forward replaced    {path}.forward = lambda x: x * 0.5
1    layer's forward put back    {path}.__dict__.pop('forward', None)
1    class's forward replaced    m.Model.forward = w.after(m.Model.forward, lambda result: (result, 1))
1    class's forward replaced    type({block}).forward = w.after(type({block}).forward, lambda result: result)
1    model's forward replaced    model.forward = w.after(model.forward, lambda result: (result, 2))
1    __call__ of a class         m.Model.__call__ = w.after(nn.Module.__call__, lambda result: (result, 3))
0.5  PyTorch's function replaced with w.patched(F, 'relu', lambda x, inplace=False: x * 0.5): call({seed})
0.5  PyTorch's function replaced with w.patched(torch, 'sigmoid', lambda x: x * 0.5): call({seed})
0.5  PyTorch's layer replaced    with w.patched(nn.Conv2d, 'forward', lambda self, x: x * 2): call({seed})
1    layer replaced              {path} = nn.Identity()
1    layer replaced              {path} = copy.deepcopy({path})
1    layer replaced              {path} = nn.Sequential({path}, nn.Tanh())
1    layer replaced              w.old, {path} = {path}, nn.Identity(); call({seed}); {path} = w.old
0.7  layer replaced by a functionvars({block})['{last}'] = torch.tanh
0.7  layer removed               del {path}
0.7  layer set to None           {path} = None
1    layer added                 {block}.add_module('extra', nn.Conv2d(1, 1, 1))
1    layer's class changed       {path}.__class__ = w.other(type({path}), lambda self, x: x + 1)
1    weight_norm                 nn.utils.parametrizations.weight_norm({path})
1    old weight_norm             nn.utils.weight_norm({path})
0.7  old weight_norm removed     nn.utils.remove_weight_norm({path})
1    spectral_norm               nn.utils.parametrizations.spectral_norm({path})
1    parametrization removed     m.parametrize.remove_parametrizations({path}, 'weight')
1    pruning                     m.prune.l1_unstructured({path}, 'weight', amount=0.4)
1    pruning removed             m.prune.remove({path}, 'weight')
1    copy.copy                   model = copy.copy(model)
1    copy.copy, and the original other = copy.copy(model); other.training = not other.training
1    deepcopy                    model = copy.deepcopy(model)
1    deepcopy changed            other = copy.deepcopy(model); other.requires_grad_(False); call({seed}, of=other)
1    deepcopy changed            other = copy.deepcopy(model); w.double_all(other)
1    original, after deepcopy    other, model = model, copy.deepcopy(model); w.double_all(other)
1    pickle                      model = pickled(model)
0.7  torch.save                  model = w.saved(model)
0.7  pickle, and the original    other = pickled(model); call({seed}, of=other)
1    another instance            other = accelerate(m.build()); call({seed}, of=other); call({seed}, of=other)
1    restored                    restore(model)
1    restored, accelerated again restore(model); model = accelerate(model)
1    accelerated twice           model = accelerate(model)
0.7  a part accelerated          accelerate({block})
0.7  a part restored             restore({block})
0.7  a copy accelerated          model = accelerate(copy.deepcopy(model))
0.7  called inside another       outer = nn.Sequential(model); call({seed}, of=outer)
0.7  called in a training module outer = nn.Sequential(model).train(); call({seed}, of=outer)
0.3  compiled by others          call({seed}, of=torch.compile(model, backend='eager'))
"""

CALLS = """
8    call                        {how}
1    autocast                    with torch.no_grad(), autocast(): call({seed})
1    autocast, training          with autocast(): backward({seed})
1    inference mode              with torch.inference_mode(): call({seed})
1    gradients off by hand       torch.set_grad_enabled(False); call({seed}); torch.set_grad_enabled(True)
1    number of threads           torch.set_num_threads(2)
1    retained graph              w.held = call({seed}); w.held2 = call({seed})
1    second derivative           second({seed}, grad=True)
1    functional_call             functional({seed})
1    torch.func.grad             differential({seed})
1    vmap                        mapped({seed})
1    jvp                         jvp({seed})
1    call in a thread            threads(1, {seed})
1    dispatch mode               with w.counting(): call({seed})
1    function mode               with w.overriding(): call({seed})
1    saved tensors hooks         with w.saving(): backward({seed})
1    default dtype               with w.default(torch.float64): call({seed})
1    anomaly mode                with torch.autograd.set_detect_anomaly(True): backward({seed})
1    traced by fx                w.traced({seed})
0.2  exported                    w.exported({seed})
1    subclass of tensor          w.subclassed({seed})
1    written input               w.again({seed})
1    called while called         w.within({seed})
1    interrupted                 w.interrupted({seed})
1    deterministic algorithms    with w.deterministic(): call({seed})
"""

HOWS = [
    *["n=3", "n=1", "size=9", "size=12", "n=3, size=6", "layout='channels_last'", "layout='strided'"],
    *["layout='offset'", "layout='expanded'", "layout='transposed'", "n=0", "numbers='nan'", "numbers='inf'"],
    *["numbers='-inf'", "numbers='1e30'", "dtype='float64'", "dtype='bfloat16'", "grad=True", "numbers='0'"],
    *["size=1", "numbers='constant'", "layout='offset', n=3"],
]
SETTINGS = [
    ("no_grad", "with torch.no_grad(): {}"),
    ("no_grad", "with torch.no_grad(): {}; {}"),
    ("inference_mode", "with torch.inference_mode(): {}"),
    ("gradients", "{}"),
    ("autocast", "with autocast(): {}"),
    ("gradients on again", "with torch.no_grad(), torch.enable_grad(): {}"),
    ("manual_seed", "torch.manual_seed(7); {}"),
]

#: Attributes of layers that their functions read, by a word in the name of the layer's class.
ATTRIBUTES = {
    "Conv": [
        "stride = (2, 2)",
        "padding = (0, 0)",
        "padding = 'same'",
        "dilation = (2, 2)",
        "padding_mode = 'reflect'",
    ],
    "BatchNorm": [
        "eps = 0.5",
        "momentum = None",
        "momentum = 1.0",
        "track_running_stats = False",
        "running_mean = None",
    ],
    "GroupNorm": ["eps = 0.5", "num_groups = 1"],
    "InstanceNorm": ["eps = 0.5", "momentum = 1.0"],
    "LayerNorm": ["eps = 0.5"],
    "Pool": ["kernel_size = 1", "stride = 1", "ceil_mode = True", "padding = 0"],
    "Adaptive": ["output_size = 2"],
    "Dropout": ["p = 0.9", "p = 0.0", "inplace = True"],
    "LeakyReLU": ["negative_slope = 0.9", "inplace = True"],
    "ReLU": ["inplace = True", "inplace = False"],
    "Hardtanh": ["min_val = -0.1", "max_val = 0.1"],
    "ELU": ["alpha = 3.0"],
    "Softmax": ["dim = -1"],
    "GELU": ["approximate = 'tanh'"],
    "MultiheadAttention": ["num_heads = 1", "dropout = 0.5"],
}
WEIGHTED = ("Conv", "Linear", "Norm", "Embedding", "PReLU")
#: What a line needs that another one makes.
NEEDED = {"hook.remove": "hook = ", "w.view.": "w.view = ", "w.array[...]": "w.array = ", "opt.step": "opt = "}

Row = tuple[float, str, str]


def _rows(table: str) -> list[Row]:
    made = []
    for line in table.strip().splitlines():
        weight, rest = line[:5], line[5:]
        made.append((float(weight), rest[:28].strip(), rest[28:]))
    return made


_TENSORS, _OTHERS, _CALLS = _rows(TENSORS), _rows(OTHERS), _rows(CALLS)


def steps_of(source: Source, count: int = 12) -> list[Step]:
    """The steps that a seed takes: ``count`` changes, with calls before and after each."""
    draw = random.Random(f"steps {source.seed}")
    steps = [Step("accelerate", "model = accelerate(model)")]
    if draw.random() < 0.3:
        steps.insert(0, Step("call", "with torch.no_grad(): call(0)"))
    steps.append(Step("mode", "model.eval()" if draw.random() < 0.8 else "model.train()"))
    # A plan is made when a shape comes again, so the first calls are of one shape.
    steps += [Step("call", f"with torch.no_grad(): call({seed})") for seed in range(1, 4)]
    if draw.random() < 0.6:
        steps += _training(draw, 4)
    favourite = draw.choice(["infer", "infer", "train"])
    for seed in range(10, 10 + 10 * count, 10):
        step = _change(draw, source, seed)
        made = " ".join(each.line for each in steps)
        while any(word in step.line and need not in made + step.line for word, need in NEEDED.items()):
            step = _change(draw, source, seed)
        steps.append(step)
        kind = favourite if draw.random() < 0.7 else draw.choice(["infer", "train", "other"])
        if kind == "train":
            steps += _training(draw, seed)
            continue
        if kind == "other":
            # Threads that leave something behind do so in an order that nobody knows.
            logged = source.effects or any("LOG" in each.line or "logging" in each.line for each in steps)
            steps.append(_call(draw, not logged, seed))
        elif draw.random() < 0.6:
            steps.append(Step("mode", "model.eval()"))
        steps += [Step("call", f"with torch.no_grad(): call({seed + i})") for i in range(draw.choice([1, 2, 3, 4]))]
    return steps


def _training(draw: random.Random, seed: int) -> list[Step]:
    mode = [Step("mode", "model.train()")] if draw.random() < 0.8 else []
    made = [Step("training call", f"backward({seed}, grad={draw.random() < 0.4})")]
    if draw.random() < 0.5:
        made.append(Step("training call", f"backward({seed + 1})"))
    if draw.random() < 0.15:
        made.append(Step("second derivative", f"second({seed}, grad=True)"))
    return mode + made


def _call(draw: random.Random, threads: bool, seed: int) -> Step:
    """A call of a less usual kind."""
    how, (setting, line) = draw.choice(HOWS), draw.choice(SETTINGS)
    several = [(2.0, "calls from threads", "threads(3, {seed})")] if threads else []
    _, kind, text = _drawn(draw, _CALLS + several)
    if text == "{how}":
        if draw.random() < 0.3:
            return Step(f"backward: {how.split('=')[0]}", f"backward({seed}, {how})")
        return Step(f"call: {setting}, {how}", line.replace("{}", f"call({seed}, {how})"))
    return Step(kind, text.replace("{seed}", str(seed)))


def _change(draw: random.Random, source: Source, seed: int) -> Step:
    """One change: half of the time of what the module's own source reads."""
    if source.handles and draw.random() < 0.5:
        handle = draw.choice(source.handles)
        return Step(handle.kind, handle.line)
    _, change, line = _drawn(draw, _TENSORS if draw.random() < (0.5 if source.simple else 0.3) else _OTHERS)
    layers = source.layers
    if any(word in line for word in ("{tensor}", "{name}", "_norm(", "prune", "reset_parameters")):
        layers = [each for each in layers if any(word in each[1] for word in WEIGHTED)] or layers
    elif "{attribute}" in line:
        layers = [each for each in layers if any(word in each[1] for word in ATTRIBUTES)] or layers
    path, kind = draw.choice(layers) if layers else ("model.missing", "")
    name = draw.choice(["weight", "weight", "bias"])
    tensor = f"{path}.{name}"
    if "BatchNorm" in kind and draw.random() < 0.4:
        tensor = f"{path}.{draw.choice(['running_mean', 'running_var'])}"
    elif not any(word in kind for word in WEIGHTED):
        tensor = "list(model.parameters())[0]"
    attributes = [each for word, lines in ATTRIBUTES.items() if word in kind for each in lines] or ["missing = 1"]
    block, _, last = path.rpartition(".")
    words = {"path": path, "block": block, "last": last.split("[")[0], "name": name, "tensor": tensor}
    words |= {"seed": str(seed), "attribute": draw.choice(attributes)}
    for word, text in words.items():
        line = line.replace(f"{{{word}}}", text)
    if line.startswith("list("):
        line = line.replace("list(model.parameters())[0] = ", "missing = ")
    return Step(change, line)


def _drawn(draw: random.Random, rows: list[Row]) -> Row:
    return draw.choices(rows, [weight for weight, *_ in rows])[0]
