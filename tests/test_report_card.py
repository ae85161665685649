"""Model cards: what Markdown makes of them has the names as they are, no folder of the machine, and the limits."""

from __future__ import annotations

import dataclasses
import re
from html import unescape
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from cases import slow_but
from striate.report.card import CardFacts, card, limits
from striate.report.markdown import code, escaped, nameless, table, without_folders
from striate.tasks.scores import Measures, Scores
from striate.training import Recipe

#: All that Markdown could take for its own.
NAMES = (
    "cat",
    "a|b",
    "`code`",
    "<script>alert(1)</script>",
    "&lt;b&gt;",
    "two\nlines",
    "# heading",
    "*x* **y** _z_ __w__ ~~v~~",
    "[text](https://example.org)",
    "![picture](x.png)",
    "https://example.org/x",
    "www.example.org",
    "\\",
    "a\\|b",
    "- item",
    "1. item",
    "> quote",
    "$x$",
    "| --- |",
    "``` fence",
    "<!-- comment",
)


def html(text: str) -> str:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)


def cells(text: str) -> list[list[str]]:
    """The rows of all tables, as a reader sees them."""
    rows = re.findall(r"<tr>(.*?)</tr>", html(text), re.DOTALL)
    return [[unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)] for row in rows]


def scores(classes: tuple[str, ...], images: int = 400, seed: int = 0) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % len(classes)
    logits = torch.randn(images, len(classes), generator=generator)
    logits[torch.arange(images), labels] += 2
    return Scores(labels, (logits * 3).softmax(1), tuple(map(str, range(images))), classes)


def facts(classes: tuple[str, ...] = ("cat", "dog", "duck"), *, images: int = 400, **changes: Any) -> CardFacts:
    test, validation = scores(classes, images), scores(classes, images, seed=1)
    recipe = Recipe("lenet5", data="folder:/home/somebody/my photos", epochs=7, out="/home/somebody/runs/x")
    counts = (200,) * len(classes)
    found = CardFacts(
        model="lenet5",
        parameters=61706,
        date="2026-11-30",
        source=recipe.data,
        classes=classes,
        parts={"training": counts, "validation": counts, "test": test.evaluation().support},
        measures=Measures.of(test, validation),
        measured_on="test",
        evaluation=test.evaluation(),
        split="of each class 20 %, by chance",
        seed=5,
        preprocessing={"size": "28x28", "mean": (0.25, 0.5)},
        settings=recipe.to_dict(),
        defaults=Recipe("lenet5").to_dict(),
        versions={"python": "3.11", "torch": "2.9"},
        device="cpu",
        seconds=3725.0,
        usage=["striate predict /home/somebody/runs/x IMAGE", "striate evaluate '/home/somebody/my runs/x'"],
        overlap=0,
    )
    return dataclasses.replace(found, **changes)


def test_the_sections_are_those_of_the_paper() -> None:
    headings = re.findall(r"<h2>(.*?)</h2>", html(card(facts())))
    assert headings == [
        "Model details",
        "Intended use",
        "Factors",
        "Metrics",
        "Evaluation data",
        "Training data",
        "Quantitative analyses",
        "Ethical considerations",
        "Caveats and recommendations",
        "How to use it",
    ]
    assert card(facts()).count("> **To be filled in.** ") == 3


def test_what_it_tells() -> None:
    found = facts(skipped={"can't be read": 2}, pictures={"reliability": "reliability diagram.png"})
    rows, text = cells(card(found)), html(card(found))
    accuracy = found.measures.accuracy
    assert accuracy.interval is not None
    low, high = accuracy.interval
    assert ["accuracy", f"{accuracy.value:.1%}", f"{low:.1%} to {high:.1%}"] in rows
    assert ["network", "lenet5"] in rows
    assert ["parameters", "61,706"] in rows
    assert ["training took", "1 h 2 min"] in rows
    assert ["mean", "0.25, 0.5"] in rows
    assert ["all", "600", "600", "400"] in rows
    assert rows.count(["epochs", "7"]) == 2  # among what isn't the default, and among all
    assert rows.count(["batch_size", "32"]) == 1
    assert "<li>2: can't be read</li>" in text
    assert '<img src="reliability%20diagram.png" alt="reliability"' in text
    assert "striate predict x IMAGE\nstriate evaluate 'x'" in text
    assert f"at temperature {found.measures.temperature:.3g}" in text


def test_classes_come_weakest_first_and_confusions_largest_first() -> None:
    found = facts()
    rows = cells(card(found))
    start = next(n for n, row in enumerate(rows) if row[:3] == ["class", "training images", "images"])
    recalls = [float(row[3].rstrip("%")) for row in rows[start + 1 : start + 4]]
    assert recalls == sorted(recalls)
    start = next(n for n, row in enumerate(rows) if row[:2] == ["images of", "taken for"])
    counts = [int(row[2]) for row in rows[start + 1 :]]
    assert counts == sorted(counts, reverse=True)
    true, predicted, count, _ = rows[start + 1]
    row, column = (found.classes.index(name) for name in (true, predicted))
    assert found.evaluation.confusion[row][column] == int(count)


@pytest.mark.slow
def test_of_many_classes_the_others_are_folded() -> None:
    names = tuple(f"class {n}" for n in range(120))
    text = card(facts(names, images=1200))
    assert text.count("<details>") == text.count("</details>") == 3
    assert text.index("The other classes") < text.index("### What is taken for what")
    for name in names:
        assert sum(row[0] == name for row in cells(text)) >= 2  # its counts, its measures


def test_names_stay_what_they_are() -> None:
    rows = cells(card(facts(NAMES, images=2000)))
    for name in NAMES:
        assert sum(row[0] == " ".join(name.split()) for row in rows) >= 2, name
    assert "<script>" not in html(card(facts(NAMES, images=2000)))


def said(text: str) -> str:
    """A card that has a text wherever it can have one."""
    one = {text: 3}
    return card(
        facts(
            skipped=one,
            settings=one,
            preprocessing=one,
            title=text,
            model=text,
            split=text,
            device=text,
            source=text,
            unseen=[text],
            pictures={text: "x.png"},
        )
    )


@pytest.mark.parametrize("name", slow_but(NAMES, NAMES[:8]))
def test_every_text_is_escaped(name: str) -> None:
    ours, plain = (re.findall(r"</?[a-z0-9]+", html(said(text))) for text in (name, "x"))
    assert ours == plain


@given(st.text())
def test_any_text_is_itself_in_a_table(text: str) -> None:
    shown = " ".join(text.split())
    shown = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in shown)
    assert cells(table(["x", "y"], [(text, "end")]))[1] == [shown, "end"]
    assert html(escaped("a " + text)).startswith("<p>a")
    assert html(escaped(text)).count("<") <= 2 + shown.count("<")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/somebody/photos", "photos"),
        ("folder:/home/somebody/my photos/", "folder:my photos"),
        ("~/photos", "photos"),
        (r"C:\Users\Somebody\photos", "photos"),
        (r"folder:C:\Users\Somebody\photos", "folder:photos"),
        ("folder:photos/new", "folder:photos/new"),
        ("hf:ylecun/mnist", "hf:ylecun/mnist"),
        ("digits", "digits"),
        ("cuda:1", "cuda:1"),
    ],
)
def test_values_have_no_folders(value: str, shown: str) -> None:
    assert nameless(value) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("striate predict /a/b/run x.png", "striate predict run x.png"),
        ("--model=/a/b/run", "--model=run"),
        ("'/a b/c d/e.png' and \"/x/y\"", "'e.png' and \"y\""),
        ("yes and/or no, 3/4, runs/first", "yes and/or no, 3/4, runs/first"),
        ("https://example.org/x/y", "https://example.org/x/y"),
    ],
)
def test_texts_have_no_folders(text: str, shown: str) -> None:
    assert without_folders(text) == shown


def test_the_card_has_no_folders() -> None:
    found = facts(split="as in /home/somebody/lists/a.txt", skipped={"/home/somebody/my photos/x.png: broken": 1})
    assert "somebody" not in card(found)
    assert "/home" not in card(found)


def test_code_stays_a_block() -> None:
    text = html(code(["a ``` b", "c\nd", "</code>"], "sh"))
    assert text == '<pre><code class="language-sh">a ``` b\nc d\n&lt;/code&gt;\n</code></pre>\n'


def with_parts(**parts: tuple[int, ...]) -> dict[str, Any]:
    return {"parts": parts}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (with_parts(training=(200, 49, 12), test=(1, 1, 1)), "Fewer than 50 training images: duck (12), dog (49)."),
        (with_parts(training=(2000, 199, 500), test=(1, 1, 1)), "Classes have 199 to 2,000 training images"),
        (with_parts(training=(200, 200, 200), test=(1, 1, 1)), "There were no validation images"),
        pytest.param({"chosen_on": "test"}, "Something was chosen by the test images", marks=pytest.mark.slow),
        pytest.param({"overlap": None}, "Nobody looked whether images are in several parts", marks=pytest.mark.slow),
        ({"overlap": 1200}, "1,200 of the test images are training images"),
        pytest.param({"unseen": ["grey images"]}, "Training saw no grey images", marks=pytest.mark.slow),
        ({}, "the answer is one of these 3 classes"),
    ],
)
def test_limits_follow_from_facts(changes: dict[str, Any], expected: str) -> None:
    assert any(expected in limit for limit in limits(facts(**changes)))
    if changes:
        assert not any(expected in limit for limit in limits(facts()))
    assert sum(line.startswith("- ") for line in card(facts(**changes)).splitlines()) >= len(limits(facts(**changes)))


def test_limits_of_what_was_measured() -> None:
    few = scores(("cat", "dog", "duck"), 30)
    wide = limits(facts(measures=Measures.of(few), evaluation=few.evaluation()))
    assert any(
        "Recall is known to 10% either way or worse, for want of images: cat, dog, duck." in each for each in wide
    )
    two = Scores(few.labels[few.labels < 2], few.probabilities[few.labels < 2], ("",) * 20, few.classes)
    missing = limits(facts(measures=Measures.of(two), evaluation=two.evaluation()))
    assert any("Without test images, so that nothing is known of them: duck." in each for each in missing)
    sure = limits(facts())
    assert any(re.search(r"accuracy are \d+\.\d% apart on average, \d+\.\d% at the temperature", each) for each in sure)


def test_without_errors_time_and_changes() -> None:
    right = scores(("cat", "dog", "duck"))
    rows = torch.nn.functional.one_hot(right.labels, 3).float()
    perfect = dataclasses.replace(right, probabilities=rows)
    defaults = Recipe("lenet5").to_dict()
    text = card(
        facts(
            measures=Measures.of(perfect),
            evaluation=perfect.evaluation(),
            seconds=None,
            settings=defaults,
        )
    )
    assert "No image was taken for another class." in text
    assert "All settings are the defaults." in text
    assert "training took" not in text
    assert "None" not in text
    assert "nan" not in text
