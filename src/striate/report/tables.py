"""Results as tables for the terminal. Names that a user chose go in as Text, so that rich sees no markup in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from striate.engine.timing import Timing
from striate.export import Exported
from striate.training.results import Evaluation, Example

#: Up to this many classes are all listed; of more, the WEAKEST.
_ALL: Final = 30
_WEAKEST: Final = 15


def classes(evaluation: Evaluation) -> Table:
    """Precision, recall, F1 and support of each class, and what it is mostly taken for."""
    order: Sequence[int] = range(len(evaluation.classes))
    title = None
    if len(order) > _ALL:
        order = sorted(order, key=lambda index: evaluation.f1[index])[:_WEAKEST]
        title = f"the {_WEAKEST} weakest of {len(evaluation.classes)} classes"
    table = plain_table("class", "precision", "recall", "F1", "images", "mistaken for", title=title)
    precision, recall, f1, support = evaluation.precision, evaluation.recall, evaluation.f1, evaluation.support
    for index in order:
        table.add_row(
            Text(evaluation.classes[index]),
            *(f"{value[index]:.1%}" for value in (precision, recall, f1)),
            str(support[index]),
            Text(_mistaken(evaluation, index)),
        )
    return table


def _mistaken(evaluation: Evaluation, index: int) -> str:
    row = [count if column != index else 0 for column, count in enumerate(evaluation.confusion[index])]
    most = max(row)
    return f"{evaluation.classes[row.index(most)]} ({most})" if most else ""


def examples(shown: Iterable[Example]) -> Table:
    """Held-out images: what they are and what the network says of them."""
    table = plain_table("image is", "predicted", "probability", "")
    for example in shown:
        verdict = "right" if example.right else "[bold red]wrong[/]"
        table.add_row(Text(example.actual), Text(example.predicted), f"{example.probability:.1%}", verdict)
    return table


def described(texts: Mapping[str, str]) -> Table:
    """Things (files, models) and what they are."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(overflow="fold")
    table.add_column()
    for name, text in texts.items():
        table.add_row(Text(name), Text(text))
    return table


def grouped(groups: Mapping[str, Mapping[str, str]]) -> Group:
    """Things and what they are, under headings."""
    width = max(len(name) for texts in groups.values() for name in texts)
    shown: list[RenderableType] = []
    for heading, texts in groups.items():
        table = described(texts)
        table.columns[0].min_width = width
        shown += [Text(heading, style="bold"), Padding(table, (0, 0, 0, 2), expand=False), Text("")]
    return Group(*shown[:-1])


def predictions(images: Iterable[str], ranked: Iterable[Sequence[tuple[str, float]]]) -> Table:
    """For each image its likeliest classes with their probabilities."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(overflow="fold")
    for image, likeliest in zip(images, ranked, strict=True):
        table.add_row(Text(image), *(Text(f"{name} {probability:.1%}") for name, probability in likeliest))
    return table


def exported(done: Exported) -> Table:
    """A file that was exported, and how near its results are to the network's own."""
    kind = done.format if done.opset is None else f"{done.format}, opset {done.opset}"
    several = f"{done.images} image{'s' * (done.images > 1)}, one alone and all as a batch"
    exact = "the same to the bit" if done.max_difference == 0 else f"largest difference {done.max_difference:.2g}"
    return described(
        {
            "file": f"{done.path} ({done.bytes:,} bytes)",
            "format": kind,
            "network": done.model,
            "verified": f"{several}: {exact} ({done.tolerance:.2g} allowed), the same classes",
        }
    )


def timing(found: Timing) -> Group:
    """Each pass of a problem: what every backend takes, and its share of what the machine could do."""
    layout = "channels_last" if found.channels_last else "contiguous"
    threads = f"{found.roofline.threads} thread{'s' * (found.roofline.threads > 1)}"
    machine = f"peak {found.roofline.flops / 1e9:,.0f} GFLOP/s, memory {found.roofline.bandwidth / 1e9:,.1f} GB/s"
    kind = f"{str(found.dtype).removeprefix('torch.')}, {layout}, {threads}: {machine}"
    table = plain_table("pass", "backend", "time, us", "GFLOP/s", "GB/s", "of roofline")
    table.columns[1].justify = "left"
    refused: dict[tuple[str, str], list[str]] = {}
    above: dict[str, list[str]] = {}
    for each in found.passes:
        name = label = each.open_.name.lower().replace("_", " ")
        for backend, seconds in sorted(each.seconds.items(), key=lambda item: item[1]):
            speed = (f"{each.flops / seconds / 1e9:,.1f}", f"{each.bytes_ / seconds / 1e9:,.1f}")
            table.add_row(label, backend, f"{seconds * 1e6:,.1f}", *speed, f"{found.share(each, backend):.0%}")
            label = ""
            if why := found.above(each, backend):
                above.setdefault(why, []).append(f"{name} by {backend}")
        for backend, refusal in each.refusals.items():
            refused.setdefault((backend, refusal), []).append(name)
    below = [(f"above 100 %, {', '.join(rows)}", why) for why, rows in above.items()]
    for (backend, refusal), names in refused.items():
        which = "" if len(names) == len(found.passes) else f" ({', '.join(names)})"
        below.append((f"{backend} refuses{which}", refusal))
    notes = [Text(f"{what}: {why}", style="dim", overflow="fold") for what, why in below]
    return Group(Text(str(found.problem)), Text(kind, style="dim"), table, *notes)


def plain_table(first: str, *others: str, title: str | None = None) -> Table:
    """A table without lines, its first column to the left and the others to the right."""
    table = Table(box=None, title=title, title_justify="left", pad_edge=False, header_style="dim")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
