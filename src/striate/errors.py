"""What a user sees when something can't be done: what was got, what was needed, what to do instead.

Every message is one line, so that a program can print it as it is and a log can be searched for it.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from typing import Final

#: Control characters, formats (directions of writing among them), halves of characters, ends of lines and paragraphs.
_UNSEEN: Final = ("Cc", "Cf", "Cs", "Zl", "Zp")
#: Formats that words and emoji are written with: the zero-width non-joiner and joiner.
_JOINERS: Final = "\u200c\u200d"


def readable(text: object) -> str:
    r"""A name on one line that can be printed and stored: what has no shape, or acts on a terminal, is spelt out.

    File names are bytes on many systems. Those that aren't UTF-8 reach Python as halves of characters, at which every
    ``print`` and every file of text would fail; they are shown as bytes.

    >>> print(readable("cat\n\x1b[31m \udcff"))
    cat\n\x1b[31m \xff
    """
    return "".join(letter if _is_seen(letter) else _spelt(letter) for letter in str(text))


def _is_seen(letter: str) -> bool:
    return " " <= letter <= "~" or letter in _JOINERS or unicodedata.category(letter) not in _UNSEEN


def _spelt(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on a device or on the CPU.

    Whoever catches errors of another library to say what they mean asks this first: what ran out of memory was nothing
    that a user did wrong with the call.
    """
    # By name, since this file knows no PyTorch. Its allocator for the CPU raises a plain RuntimeError.
    named = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    return named or "DefaultCPUAllocator: " in str(error) or "CUDA out of memory" in str(error)


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


class StudioError(StriateError, ValueError):
    """Something that the studio can't show: an unknown picture or value, a network that fails on a picture."""
