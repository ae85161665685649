"""Results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from striate.report.text import PlainTable

if TYPE_CHECKING:  # each costs seconds, and a command needs one of them at most
    from striate.engine.timing import Timing
    from striate.export import Exported
    from striate.tasks.evaluation import Evaluation, Example
    from striate.tasks.intervals import Measure
    from striate.tasks.scores import Measures

#: Up to this many classes are all listed; of more, the WEAKEST.
_ALL: Final = 30
_WEAKEST: Final = 15


def classes(evaluation: Evaluation) -> PlainTable:
    """Precision, recall, F1 and support of each class, and what it is mostly taken for."""
    order: Sequence[int] = range(len(evaluation.classes))
    title = None
    if len(order) > _ALL:
        order = sorted(order, key=lambda index: evaluation.f1[index])[:_WEAKEST]
        title = f"the {_WEAKEST} weakest of {len(evaluation.classes)} classes"
    table = plain_table("class", "precision", "recall", "F1", "images", "mistaken for", title=title)
    precision, recall, f1, support = evaluation.precision, evaluation.recall, evaluation.f1, evaluation.support
    table.columns[-1].justify = "left"
    for index in order:
        shares = (f"{value[index]:.1%}" for value in (precision, recall, f1))
        table.add_row(evaluation.classes[index], *shares, str(support[index]), _mistaken(evaluation, index))
    return table


def _mistaken(evaluation: Evaluation, index: int) -> str:
    row = [count if column != index else 0 for column, count in enumerate(evaluation.confusion[index])]
    most = max(row)
    return f"{evaluation.classes[row.index(most)]} ({most})" if most else ""


def examples(shown: Iterable[Example]) -> PlainTable:
    """Held-out images: what they are and what the network says of them."""
    table = plain_table("image is", "predicted", "probability", "")
    table.columns[1].justify = "left"
    for example in shown:
        verdict = Text("right") if example.right else Text("wrong", style="bold red")
        table.add_row(example.actual, example.predicted, f"{example.probability:.1%}", verdict)
    return table


def described(texts: Mapping[str, str]) -> PlainTable:
    """Things (files, models) and what they are."""
    table = PlainTable(show_header=False)
    table.add_column()
    table.add_column()
    for name, text in texts.items():
        table.add_row(name, text)
    return table


def told(lines: Iterable[tuple[str, str | Text]]) -> PlainTable:
    """What is told of one thing: a word for each line, and the line."""
    table = PlainTable(show_header=False)
    table.add_column(style="dim")
    table.add_column()
    for word, text in lines:
        table.add_row(word, text)
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


def exported(done: Exported) -> PlainTable:
    """A file that was exported, and how near its results are to the network's own."""
    kind = done.format if done.opset is None else f"{done.format}, opset {done.opset}"
    noise = " of noise (the run's own aren't at hand)" if done.synthetic else ""
    several = f"{done.images} image{'s' * (done.images > 1)}{noise}, one alone and all as a batch"
    exact = "the same to the bit" if done.max_difference == 0 else f"largest difference {done.max_difference:.2g}"
    same = "classes" if done.objects is None else f"{done.objects:,} object{'s' * (done.objects != 1)}"
    return described(
        {
            "file": f"{done.path} ({done.bytes:,} bytes)",
            "format": kind,
            "network": done.model,
            "images": f"any number at once; {done.sizes}",
            "verified": f"{several}: {exact} ({done.tolerance:.2g} allowed), the same {same}",
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


def plain_table(first: str, *others: str, title: str | None = None) -> PlainTable:
    """A table without lines, its first column to the left and the others, of numbers, to the right."""
    table = PlainTable(title)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def measured(measures: Measures) -> Table:
    """All images in a few lines: each measure, its 95 % interval where it has one, and what it is."""
    table = plain_table("", "", "95 % interval", "")
    table.columns[-1].justify = "left"

    def add(name: str, value: str, note: str = "", interval: tuple[float, float] | None = None) -> None:
        table.add_row(name, value, "" if interval is None else f"{interval[0]:.1%} to {interval[1]:.1%}", note)

    def add_share(name: str, measure: Measure, note: str = "") -> None:
        add(name, percent(measure.value), note, measure.interval)

    before, after = measures.calibration, measures.scaled
    add_share("accuracy", measures.accuracy, counted(measures.images))
    if measures.top < len(measures.classes):
        add_share(f"top-{measures.top} accuracy", measures.top_accuracy, "the true class is among the likeliest")
    add("balanced accuracy", percent(measures.balanced_accuracy), "mean recall of the classes")
    add_share("macro F1", measures.macro_f1, "mean over the classes")
    add("kappa", "undefined" if measures.kappa is None else f"{measures.kappa:.3f}", "agreement beyond chance")
    add("loss", f"{before.loss:.4f}", "nats an image")
    add("calibration error", percent(before.reliability.expected_error), "confidence against accuracy, mean of bins")
    if after is not None and measures.temperature is not None:
        note = f"at it: loss {after.loss:.4f}, calibration error {percent(after.reliability.expected_error)}"
        add("temperature", f"{measures.temperature:.3g}", note)
    return table


def percent(share: float | None) -> str:
    """A share as the tables have it.

    >>> percent(0.98765), percent(None)
    ('98.8%', 'undefined')
    """
    return "undefined" if share is None else f"{share:.1%}"


def counted(count: int) -> str:
    """How many images, in words."""
    return f"{count:,} image{'s' * (count != 1)}"
