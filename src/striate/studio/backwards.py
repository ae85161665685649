"""A cache of the backward passes of a workspace's recordings; only the last one is kept, with autograd's graph."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from typing import Final

from striate.studio.gradients import Backward
from striate.studio.workspace import Workspace

#: The number of backward passes that are cached.
KEPT: Final = 1

_GUARD: Final = threading.Lock()
_KNOWN: Final[weakref.WeakKeyDictionary[Workspace, OrderedDict[tuple[str, bool], Backward]]] = (
    weakref.WeakKeyDictionary()
)


def backward_of(workspace: Workspace, picture: str | None, *, training: bool = False) -> Backward:
    """The backward pass of a picture's recording; to be called in a thread, within :meth:`Workspace.compute`.

    Raises:
        StriateError: no such picture, or the network doesn't run with gradients.
    """
    recording = workspace.recording(picture, training=training)
    shown = workspace.picture(picture)
    key = (shown.id, training)
    with _GUARD:
        kept = _KNOWN.setdefault(workspace, OrderedDict())
        found = kept.get(key)
        if found is not None and found.recording is recording:
            kept.move_to_end(key)
            return found
        kept.pop(key, None)
        while len(kept) >= KEPT:
            kept.popitem(last=False)
    made = Backward(workspace.subject.model, shown.inputs, recording)
    with _GUARD:
        kept[key] = made
    return made
