"""The model card, as Markdown: a network's description, training data, measures and limitations.

Its sections are those of M. Mitchell et al., "Model cards for model reporting", FAT* 2019. Facts that only people know,
such as the network's intended use, are left open and marked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from striate.report.markdown import code, escaped, folded, nameless, table, without_folders
from striate.report.tables import percent
from striate.tasks.calibration import Calibration
from striate.tasks.evaluation import Evaluation
from striate.tasks.intervals import Interval, Measure
from striate.tasks.scores import ClassMeasures, Measures

#: Fewer training images than these are few.
_FEW: Final = 50
#: If an interval of a recall is wider than this, the card says that it means little.
_WIDE: Final = 0.2
#: If the mean gap between confidence and accuracy is larger, the card warns that probabilities aren't reliable.
_UNCALIBRATED: Final = 0.05
#: The largest class has so many times the images of the smallest.
_UNEVEN: Final = 10
#: Up to so many classes are listed in the open, of more the weakest.
_LISTED: Final = 30
_CONFUSIONS: Final = 10
_NAMED: Final = 8
_FILL_IN: Final = "> **To be filled in.** "


@dataclass(frozen=True)
class CardFacts:
    """The facts of a card.

    Args:
        model: the network's name.
        parameters: of the network.
        date: of the training, as it is to be shown: ``"2026-11-30"``.
        source: where the images are from, as ``striate.data.load`` takes it.
        classes: the K names.
        parts: for each part of the images, ``"training"`` first, how many of each class it has, K numbers.
        measures: what was measured.
        measured_on: the part that it was measured on.
        evaluation: the counts of it, for the confusions.
        split: how the parts were made, in words.
        seed: of the split and the training.
        preprocessing: what is done to an image before the network sees it.
        settings: all settings of the training.
        defaults: what they would be if nothing was said.
        versions: of python, torch, striate.
        device: the device of the training.
        seconds: duration of the training; None if it isn't known.
        usage: commands that use the network.
        title: None for a title from the network and the source.
        skipped: numbers of images that were left out, by reason.
        overlap: images of ``measured_on`` whose content is among the training images, too; None if this wasn't checked.
        chosen_on: the part that was used to choose something, such as the best epoch; empty if none was.
        unseen: kinds of images that training never saw, in words: ``"grey images"``, ``"images below 64 pixels"``.
        pictures: what they show, and the file beside the card.
    """

    model: str
    parameters: int
    date: str
    source: str
    classes: tuple[str, ...]
    parts: Mapping[str, Sequence[int]]
    measures: Measures
    measured_on: str
    evaluation: Evaluation
    split: str
    seed: int
    preprocessing: Mapping[str, object]
    settings: Mapping[str, object]
    defaults: Mapping[str, object]
    versions: Mapping[str, str]
    device: str
    seconds: float | None
    usage: Sequence[str]
    title: str | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)
    overlap: int | None = None
    chosen_on: str = ""
    unseen: Sequence[str] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)


def card(facts: CardFacts) -> str:
    """The card of a network, as Markdown. Names are escaped, and absolute paths cut to their last part."""
    title = facts.title or f"{facts.model} on {nameless(facts.source)}"
    sections = {
        "Model details": _details(facts),
        "Intended use": _FILL_IN + "What is it for, who should use it, and what should it not be used for?",
        "Factors": _factors(facts),
        "Metrics": _metrics(facts),
        "Evaluation data": _evaluation_data(facts),
        "Training data": _training_data(facts),
        "Quantitative analyses": _analyses(facts),
        "Ethical considerations": _FILL_IN + "Whom do the images show or concern, and what does an error do to them?",
        "Caveats and recommendations": "\n".join(f"- {limit}" for limit in limits(facts)),
        "How to use it": code(map(without_folders, facts.usage), "sh"),
    }
    body = "\n\n".join(f"## {heading}\n\n{content}" for heading, content in sections.items())
    return f"# {escaped(title)}\n\n{body}\n"


def limits(facts: CardFacts) -> tuple[str, ...]:
    """What the numbers don't show, and where the network shouldn't be trusted, as far as the facts tell."""
    unseen = [
        f"Training saw no {escaped(without_folders(kind))}: what comes of such is unknown." for kind in facts.unseen
    ]
    closed = f"Whatever an image shows, the answer is one of these {len(facts.classes):,} classes."
    return (*_few_images(facts), *_biased(facts), *unseen, closed)


def _few_images(facts: CardFacts) -> list[str]:
    """Limitations because of too few images for training or for measuring."""
    found = []
    training = dict(zip(facts.classes, _training(facts), strict=True))
    part = escaped(facts.measured_on)
    if few := [f"{name} ({count})" for name, count in sorted(training.items(), key=_second) if count < _FEW]:
        found.append(f"Fewer than {_FEW} training images: {_listed(few)}.")
    if min(training.values()) * _UNEVEN < max(training.values()):
        sizes = f"{min(training.values()):,} to {max(training.values()):,} training images"
        found.append(f"Classes have {sizes}: the small ones tend to be predicted too rarely.")
    if missing := [each.name for each in facts.measures.classes if not each.images]:
        found.append(f"Without {part} images, so that nothing is known of them: {_listed(missing)}.")
    wide = [each.name for each in facts.measures.classes if _width(each.recall.interval) > _WIDE]
    if wide:
        found.append(f"Recall is known to {_WIDE / 2:.0%} either way or worse, for want of images: {_listed(wide)}.")
    return found


def _biased(facts: CardFacts) -> list[str]:
    """Limitations because numbers are better than on new images, or mean something else than they seem to."""
    found = []
    part = escaped(facts.measured_on)
    if "validation" not in facts.parts:
        found.append("There were no validation images: nothing could be chosen, or calibrated, but on other images.")
    if facts.chosen_on == facts.measured_on:
        found.append(f"Something was chosen by the {part} images, so what is measured on them is too good.")
    if facts.overlap is None:
        found.append("Nobody looked whether images are in several parts.")
    elif facts.overlap:
        found.append(
            f"{facts.overlap:,} of the {part} images are training images as well, so the numbers are too good."
        )
    gap = facts.measures.calibration.reliability.expected_error
    if gap > _UNCALIBRATED:
        mended = facts.measures.scaled
        remedy = "" if mended is None else f", {percent(mended.reliability.expected_error)} at the temperature above"
        found.append(f"Confidence and accuracy are {percent(gap)} apart on average{remedy}.")
    return found


def _details(facts: CardFacts) -> str:
    changed = {name: value for name, value in facts.settings.items() if value != facts.defaults.get(name)}
    took = {} if facts.seconds is None else {"training took": _duration(facts.seconds)}
    rows = {
        "network": facts.model,
        "parameters": f"{facts.parameters:,}",
        "classes": f"{len(facts.classes):,}",
        "trained": facts.date,
        **took,
        "device": nameless(facts.device),
        "versions": ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
        "seed": facts.seed,
    }
    return "\n\n".join(
        [
            _pairs(rows),
            "What is done to an image before the network sees it:",
            _pairs(facts.preprocessing),
            "Settings of the training that aren't the defaults:" if changed else "All settings are the defaults.",
            *([_pairs(changed)] if changed else []),
            folded("All settings", _pairs(facts.settings)),
        ]
    )


def _factors(facts: CardFacts) -> str:
    given = f"Results are given for each of the {len(facts.classes)} classes. "
    return (
        given
        + "Other groups of images (cameras, places, light, people) weren't told apart.\n\n"
        + (_FILL_IN + "For which groups could results differ?")
    )


def _metrics(facts: CardFacts) -> str:
    top = facts.measures.top
    lines = [
        "accuracy: the share of the images whose class was predicted"
        + (f"; top-{top} accuracy: whose class is among the {top} likeliest" if top < len(facts.classes) else ""),
        "recall, of a class: of its images, the share that was predicted to be of it; precision: of the images that "
        "were predicted to be of it, the share that is; F1: their harmonic mean",
        "balanced accuracy: the mean recall of the classes; macro F1: their mean F1",
        "kappa: agreement beyond chance; 1 is perfect, 0 is chance, less is worse than chance",
        "loss: the mean of minus the logarithm of the true class's probability",
        "calibration error: how far the predicted class's probability is from the share of such images that is right, "
        "mean over 15 bins (Guo et al. 2017)",
        "intervals: 95 %, of shares by Wilson's formula, of macro F1 by resampling the images; of the images, not of "
        "other trainings",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _evaluation_data(facts: CardFacts) -> str:
    images = f"The {escaped(facts.measured_on)} images, {facts.measures.images:,} in all, of {_source(facts)}."
    return f"{images} How images were parted: {escaped(without_folders(facts.split))}."


def _training_data(facts: CardFacts) -> str:
    rows = [
        (name, *(f"{counts[index]:,}" for counts in facts.parts.values())) for index, name in enumerate(facts.classes)
    ]
    total = ("all", *(f"{sum(counts):,}" for counts in facts.parts.values()))
    header = ["class", *(f"{escaped(part)} images" for part in facts.parts)]
    if len(rows) > _LISTED:
        counts = table(header, [total]) + "\n\n" + folded("Images of each class", table(header, rows))
    else:
        counts = table(header, [*rows, total])
    left_out = [f"{count:,}: {escaped(without_folders(reason))}" for reason, count in facts.skipped.items()]
    skipped = ["Images that were left out:", "\n".join(f"- {line}" for line in left_out)] if left_out else []
    return "\n\n".join([f"Of {_source(facts)}.", counts, *skipped])


def _analyses(facts: CardFacts) -> str:
    measures = facts.measures
    pictures = [f"![{escaped(words)}]({quote(file)})" for words, file in facts.pictures.items()]
    return "\n\n".join(
        [
            f"Measured on {measures.images:,} {escaped(facts.measured_on)} images.",
            table(["measure", "value", "95 % interval"], _rows(measures)),
            "### Calibration",
            _calibration(measures),
            "### Classes, the weakest first",
            _classes(facts),
            "### What is taken for what",
            _confusions(facts.evaluation),
            *pictures,
        ]
    )


def _rows(measures: Measures) -> list[tuple[str, str, str]]:
    rows = [("accuracy", *_both(measures.accuracy))]
    if measures.top < len(measures.classes):
        rows.append((f"top-{measures.top} accuracy", *_both(measures.top_accuracy)))
    return [
        *rows,
        ("balanced accuracy", percent(measures.balanced_accuracy), ""),
        ("macro F1", *_both(measures.macro_f1)),
        ("kappa", "undefined" if measures.kappa is None else f"{measures.kappa:.3f}", ""),
        ("mean average precision", percent(measures.mean_average_precision), ""),
        ("mean area under ROC", percent(measures.mean_roc_area), ""),
    ]


def _calibration(measures: Measures) -> str:
    columns: list[tuple[str, Calibration]] = [("as the network says", measures.calibration)]
    if measures.scaled is not None:
        columns.append((f"at temperature {measures.temperature:.3g}", measures.scaled))
    rows = [
        ("loss", *(f"{each.loss:.4f}" for _, each in columns)),
        ("Brier score", *(f"{each.brier:.4f}" for _, each in columns)),
        ("calibration error", *(percent(each.reliability.expected_error) for _, each in columns)),
        ("largest error of a bin", *(percent(each.reliability.maximum_error) for _, each in columns)),
    ]
    return table(["", *(name for name, _ in columns)], rows)


def _classes(facts: CardFacts) -> str:
    training = dict(zip(facts.classes, _training(facts), strict=True))
    order = sorted(facts.measures.classes, key=_weakness)
    header = ["class", "training images", "images", "recall", "95 % interval", "precision", "95 % interval", "F1", "AP"]
    rows = [
        (
            each.name,
            training[each.name],
            each.images,
            *_both(each.recall),
            *_both(each.precision),
            percent(each.f1),
            percent(each.average_precision),
        )
        for each in order
    ]
    shown = table(header, rows[:_LISTED])
    return shown + "\n\n" + folded("The other classes", table(header, rows[_LISTED:])) if rows[_LISTED:] else shown


def _weakness(each: ClassMeasures) -> tuple[bool, float, float]:
    """Classes without images last, and of equal recalls first those that more images speak for."""
    low, high = each.recall.interval or (0.0, 0.0)
    return each.recall.value is None, each.recall.value or 0.0, high + low


def _confusions(evaluation: Evaluation) -> str:
    found = [
        (count, evaluation.classes[true], evaluation.classes[predicted])
        for true, row in enumerate(evaluation.confusion)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    if not found:
        return "No image was taken for another class."
    most = sorted(found, key=lambda each: -each[0])[:_CONFUSIONS]
    support = dict(zip(evaluation.classes, evaluation.support, strict=True))
    rows = [(true, predicted, count, percent(count / support[true])) for count, true, predicted in most]
    return table(["images of", "taken for", "images", "of the class"], rows, numbers=2)


def _source(facts: CardFacts) -> str:
    return escaped(nameless(facts.source))


def _training(facts: CardFacts) -> Sequence[int]:
    return next(iter(facts.parts.values()))


def _both(measure: Measure) -> tuple[str, str]:
    if measure.interval is None:
        return percent(measure.value), ""
    low, high = measure.interval
    return percent(measure.value), f"{low:.1%} to {high:.1%}"


def _width(interval: Interval | None) -> float:
    return interval[1] - interval[0] if interval else 0.0


def _second(pair: tuple[str, int]) -> int:
    return pair[1]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(map(escaped, names[:_NAMED])) + (f" and {more} more" if more > 0 else "")


def _pairs(values: Mapping[str, Any]) -> str:
    return table(["", ""], [(name, nameless(_word(value))) for name, value in values.items()], numbers=2)


def _word(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, list | tuple):
        return ", ".join(map(_word, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    """As people say it.

    >>> _duration(42.25), _duration(3700)
    ('42 s', '1 h 1 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
