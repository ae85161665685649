"""What pages say of formulas: a role that links to the table, a formula set from its entry, and a study's verdict.

    {formula}`F36`            :formula:`F36`           the number, linked to its row of the table
    ```{formula} F36          .. formula:: F36         the formula itself, with its name and note
    ```{verdict} two-3x3      .. verdict:: two-3x3     what the study found, and the command that repeats it

It also makes the reference out of docstrings: their formulas become literal blocks, their ``Formula:`` lines links.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "handbook"))

import traceability


def _link(app: Sphinx, docname: str, one: str) -> nodes.reference:
    entry = traceability.entries()[one]
    uri = app.builder.get_relative_uri(docname, "traceability") + f"#{one}"
    return nodes.reference("", one, refuri=uri, reftitle=entry.name, internal=True)


class FormulaRole(SphinxRole):
    """The number of a formula, as a link."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        if self.text not in traceability.entries():
            said = self.inliner.reporter.error(f"{self.text} is no number of formulas.toml", line=self.lineno)
            return [], [said]
        return [_link(self.env.app, self.env.docname, self.text)], []


class FormulaDirective(SphinxDirective):
    """A formula with its name, number and note."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        entry = traceability.entries().get(self.arguments[0])
        if entry is None or not entry.latex:
            raise self.error(f"{self.arguments[0]} has no formula in formulas.toml")
        block = nodes.math_block(entry.latex, entry.latex, docname=self.env.docname, number=None, label=None)
        block["nowrap"] = block["no-wrap"] = False
        self.set_source_info(block)
        caption = nodes.paragraph("", "", nodes.strong("", entry.name), nodes.Text(" ("))
        caption += [_link(self.env.app, self.env.docname, entry.id), nodes.Text(")")]
        found: list[nodes.Node] = [caption, block]
        if entry.note:
            found.append(nodes.paragraph("", "", nodes.emphasis("", entry.note)))
        return found


class VerdictDirective(SphinxDirective):
    """What a study found when it was last run and recorded."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in traceability.studies():
            raise self.error(f"there is no study {name!r}")
        known = traceability.verdicts().get(name)
        if known is None:
            text = f"**Study** ``{name}``: run ``striate study {name}``; no run is recorded in the handbook."
        else:
            text = f"**Study** ``{name}``. Claim: *{known['claim']}* Verdict: **{known['verdict']}**. "
            text += f"{known['numbers']} (``{known['command']}``)"
        box = nodes.admonition("", nodes.title("", "Measured"))
        self.state.nested_parse(StringList([text]), self.content_offset, box)
        return [box]


_FIELD = re.compile(r"^Formula: (.+)\.$")
_SECTION = re.compile(r"^\w[\w ]*:$")


def readable_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Makes reStructuredText of a docstring that is written to be read as it is.

    Indented blocks after a blank line are formulas, and become literal; signs that reStructuredText would take as its
    own are escaped elsewhere.
    """
    # Napoleon takes what precedes a colon in the first line of a property's docstring for a type.
    made: list[str] = [""] if what in ("property", "attribute", "data") else []
    prose: list[str] = []
    literal = in_section = doctest = False
    for number, line in enumerate(lines):
        indent, blank = len(line) - len(line.lstrip()), not line.strip()
        if not blank and not indent:
            in_section, literal = bool(_SECTION.match(line)), False
        if line.lstrip().startswith(">>>"):
            doctest = True
        elif blank:
            doctest = False
        starts = indent >= 4 and not in_section and number and not lines[number - 1].strip()
        if starts and not literal and not doctest:
            made += [*_escaped(prose), "::", ""]
            prose, literal = [], True
        field = _FIELD.match(line)
        if not (literal or doctest or blank or field):
            prose.append(line)
            continue
        if field:
            line = "*Formula:* " + ", ".join(f":formula:`{one}`" for one in re.split(r",\s*", field[1]))
        made += [*_escaped(prose), line]
        prose = []
    lines[:] = [*made, *_escaped(prose)]


def _escaped(lines: list[str]) -> list[str]:
    """The lines with signs of markup escaped, outside of ``code`` and roles, which may go on in the next line."""
    if not lines:
        return []
    parts = re.split(r"(``.+?``|:[\w:]+:`.+?`)", "\n".join(lines), flags=re.DOTALL)
    for place in range(0, len(parts), 2):
        parts[place] = re.sub(
            r"([|`])|(?<=\w)_(?=\W|$)|\*(?=\S)|(?<=\S)\*", lambda found: "\\" + found[0], parts[place]
        )
    return "".join(parts).split("\n")


def linked_table(app: Sphinx, docname: str, source: list[str]) -> None:
    """In the built table functions lead to the reference, and scripts to the pages made of them."""
    if docname == "traceability":
        text = re.sub(r"`(striate\.[\w.]+)`", r"{py:obj}`\1`", source[0])
        source[0] = re.sub(r"\]\(((?:exercises|chapters|tour)/plot_\w+)\.py\)", r"](gallery/\1.rst)", text)


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("sphinx.ext.autodoc")
    app.add_role("formula", FormulaRole())
    app.add_directive("formula", FormulaDirective)
    app.add_directive("verdict", VerdictDirective)
    app.connect("source-read", linked_table)
    app.connect("autodoc-process-docstring", readable_docstring, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
