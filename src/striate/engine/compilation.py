"""Whether a call waits for kernels that aren't compiled yet.

Compiling a kernel takes a tenth of a second or more. A call that needs a result waits. A call that only wants to know
whether a kernel would be faster doesn't: in :func:`without_waiting` the kernel is compiled by a background thread, and
:class:`NotCompiledError` tells the caller to try again later and to let PyTorch's functions compute meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class NotCompiledError(Exception):
    """A kernel isn't compiled yet; a background thread compiles it."""


#: How many kernels wait for the background thread.
backlog = 0
_state = threading.local()


def waits() -> bool:
    """Whether this thread waits for kernels to be compiled."""
    return not getattr(_state, "hurries", False)


@contextlib.contextmanager
def without_waiting() -> Iterator[None]:
    """A context in which this thread doesn't wait: a kernel that isn't compiled raises :class:`NotCompiledError`."""
    before = getattr(_state, "hurries", False)
    _state.hurries = True
    try:
        yield
    finally:
        _state.hurries = before
