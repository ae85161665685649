"""What a person sees while a network trains, on terminals of every width and on a pipe."""

from __future__ import annotations

import io

import pytest

from striate.training import Epoch
from striate.training.display import Display

LARGE = Epoch(
    999, {"loss": 12.34567, "accuracy": 0.5}, {"loss": 123.4567, "accuracy": 1.0}, "test", 0.1, 1234.5, 123456.0
)
WHOLE = "epoch  999/1000  train loss 12.3457 accuracy  50.00%  test loss 123.4567 accuracy 100.00%  1234.5 s, 123,456"
WHOLE += " images/s"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, columns: int) -> list[str]:
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    display = Display(1000, 5, quiet=False)
    if not stream.isatty():
        with display:  # which shows no bar there
            display.step(998, 3, {"loss": 1.0, "accuracy": 0.5}, 9.0)
    display.epoch(LARGE)
    display.note("goes on [bold]here[/] :cat:")
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("colour", ["", "1"])
def test_a_pipe_gets_a_line_an_epoch_and_no_bar(monkeypatch: pytest.MonkeyPatch, colour: str) -> None:
    monkeypatch.setenv("FORCE_COLOR", colour)
    assert shown(monkeypatch, io.StringIO(), 80) == [WHOLE, "goes on [bold]here[/] :cat:"]


@pytest.mark.parametrize("columns", [60, 80, 100, 130])
def test_a_terminals_lines_end_between_words(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    lines = shown(monkeypatch, Terminal(), columns)
    assert max(map(len, lines)) <= columns
    words = " ".join(lines).split()
    assert {"999/1000", "12.3457", "50.00%", "123.4567", "100.00%", "1234.5", "123,456"} <= {*words}
    assert ("accuracy" in words) == (columns == 130)
