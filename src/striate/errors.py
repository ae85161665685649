"""What a user sees when something can't be done: what was got, what was needed, what to do instead.

Every message is one line, so that a program can print it as it is and a log can be searched for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: What moves the text after it, for people who read, though not for programs: U+202A to U+202E, U+2066 to U+2069.
_TURNING = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}


def readable(text: object) -> str:
    """A path or a name as text that can be printed and stored: what no encoding has, and control characters, escaped.

    File names are bytes on many systems. Those that aren't UTF-8 reach Python as lone surrogates, at which every
    ``print`` and every file of text would fail.

    >>> readable("caf\\udce9"), readable("a\\nb")
    ('caf\\\\xe9', 'a\\\\nb')
    """
    plain = str(text).encode("utf-8", "surrogateescape" if _is_bytes(str(text)) else "backslashreplace")
    return "".join(
        letter
        if (letter.isprintable() or letter in "\u3000\xa0") and ord(letter) not in _TURNING
        else letter.encode("unicode_escape").decode()
        for letter in plain.decode("utf-8", "backslashreplace")
    )


def _is_bytes(text: str) -> bool:
    """Whether the surrogates of a text all stand for bytes of a file's name."""
    return all(not 0xD800 <= ord(letter) <= 0xDFFF or 0xDC80 <= ord(letter) <= 0xDCFF for letter in text)


class StriateError(Exception):
    """Base of all errors that a user of striate can mend.

    Args:
        where: the call, file or option that is concerned (``"conv2d"``, ``"train-labels.gz"``).
        got: what was found there.
        needed: what would have been right; may be empty where ``got`` says it all.
        remedy: what to do instead; may be empty where there is only one thing to do.

    >>> print(StriateError("conv2d", "got 3 channels", "needed 4", "reshape the weight"))
    conv2d: got 3 channels; needed 4; reshape the weight
    """

    def __init__(self, where: str, got: str, needed: str = "", remedy: str = "") -> None:
        self.where, self.got, self.needed, self.remedy = where, got, needed, remedy
        # Text from outside (a file's content, another library's message) may span lines; ours never does.
        parts = " ".join(f"{where}: {'; '.join(part for part in (got, needed, remedy) if part)}".split())
        super().__init__(readable(parts))

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions pickle by their args, which here is the finished message; worker processes need the parts.
        return type(self), (self.where, self.got, self.needed, self.remedy)


def did_you_mean(got: str, known: Iterable[str], otherwise: str = "") -> str:
    """The remedy for a name that isn't known: the one that is spelt most like it, or ``otherwise``.

    >>> did_you_mean("resnet19", ["lenet5", "resnet18"])
    'did you mean resnet18?'
    """
    near = difflib.get_close_matches(got.lower(), list(known), n=1)
    return f"did you mean {near[0]}?" if near else otherwise


class GeometryError(StriateError, ValueError):
    """A window, shape or padding that can't exist: the sizes don't fit together.

    A ValueError, where PyTorch raises a RuntimeError for the same mistake.
    """


class OperandError(StriateError, TypeError):
    """A tensor of the wrong kind: rank, dtype or device. A TypeError, where PyTorch raises a RuntimeError."""


class BackendError(StriateError, RuntimeError):
    """A backend was asked for by name and refuses the problem, or no such backend exists."""


class DataError(StriateError, ValueError):
    """Data that can't be read or don't hold what they claim to."""


class ModelError(StriateError, ValueError):
    """An unknown model, or weights that belong to another one."""


class RunError(StriateError, RuntimeError):
    """A training run that can't start, go on, or be read back."""


class ExportError(StriateError, RuntimeError):
    """A network that can't be exported: an unknown format, a layer that a format hasn't, results that differ."""


class AnalysisError(StriateError, ValueError):
    """A network that can't be analysed: a size that doesn't fit, values that steer it, an unknown layer."""


class ExplainError(StriateError, ValueError):
    """An explanation that can't be made: an unknown layer or class, a layer without places, an unreadable image."""


class WeightsWarning(UserWarning):
    """Weights fit a network but for its head, which stays random."""


class StudyError(StriateError, ValueError):
    """A study that can't be run: an unknown name, or too few seeds for a spread."""
