"""The state of a studio: the subject, its pictures, and their recordings.

Recordings are kept up to a number of bytes; the least recently used one is dropped first. Running the network takes a
lock, because its layers have one mode and one set of hooks; reading a recording doesn't wait.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import anyio.to_thread
from torch import Tensor

from striate.errors import StudioError
from striate.studio.graph import release

if TYPE_CHECKING:
    from striate.studio.recording import Recording
    from striate.studio.subject import Subject

P = ParamSpec("P")
T = TypeVar("T")

#: The most bytes of recordings.
KEPT: Final = 600 << 20
#: The most pictures; the initial ones are always kept.
MOST_PICTURES: Final = 64
#: The most moved and replaced pictures, which aren't listed.
MOST_MOVED: Final = 16
#: Separates the id of a picture from its moves.
MARK: Final = "~"


@dataclass(frozen=True, eq=False)
class Picture:
    """An input of the network.

    Args:
        id: its id in addresses.
        name: its name for display.
        inputs: the network's inputs, in a form that ``record`` accepts: a tensor (1, C, H, W), or several.
        pixels: uint8 (C, H, W), C 1 or 3, the picture at the network's size, before scaling; None if it isn't a
        picture. source: uint8 (C, H, W), the picture at its original size; None if it isn't a picture. label: number of
        its true class, if known. made: the changes by which it was made from another picture, as data for the page.
        code: Python code that creates ``inputs``.
    """

    id: str
    name: str
    inputs: Any
    pixels: Tensor | None = None
    source: Tensor | None = None
    label: int | None = None
    made: Any = None
    code: str = "inputs = ...  # the picture as the network takes it"

    def to_dict(self) -> dict[str, Any]:
        """The picture's entry in the page's list; pixels are requested separately."""
        size = None if self.pixels is None else list(self.pixels.shape)
        return {"id": self.id, "name": self.name, "size": size, "label": self.label, "made": self.made}


class Workspace:
    """The state of a studio.

    Args:
        subject: the network that is shown.
        pictures: the initial pictures, at least one.
        kept: the most bytes of recordings.
    """

    def __init__(self, subject: Subject, pictures: Iterable[Picture], kept: int = KEPT) -> None:
        self.subject = subject
        self.lock = threading.RLock()
        self._own = {picture.id: picture for picture in pictures}
        self._added: OrderedDict[str, Picture] = OrderedDict()
        self._moved: OrderedDict[str, Picture] = OrderedDict()
        self._kept = kept
        self._recordings: OrderedDict[tuple[str, bool], Recording] = OrderedDict()
        self._guard = threading.Lock()
        if not self._own:
            raise StudioError("studio", "got no picture", "needed at least one")

    # ------------------------------------------------------------------ pictures

    def pictures(self) -> tuple[Picture, ...]:
        """All pictures, the initial ones first."""
        with self._guard:
            return (*self._own.values(), *self._added.values())

    def picture(self, name: str | None) -> Picture:
        """The picture with an id; for None the first.

        Raises:
            StudioError: there is no such picture.
        """
        if name is None:
            return next(iter(self._own.values()))
        if MARK in name:
            return self._moved_one(name)
        with self._guard:
            found = self._own.get(name) or self._added.get(name) or self._moved.get(name)
            if found is None:
                raise StudioError("picture", f"got {name[:40]!r}", "needed one of the pictures that are listed")
            if name in self._added:
                self._added.move_to_end(name)
        return found

    def _moved_one(self, name: str) -> Picture:
        """The moved picture that an id describes (:mod:`striate.studio.pictures`)."""
        from striate.studio.pictures import Moves, moved

        with self._guard:
            found = self._moved.get(name)
        if found is None:
            of, _, moves = name.partition(MARK)
            found = moved(self.picture(of), Moves.parse(moves), self.subject)
            with self._guard:
                self._moved[name] = found
                while len(self._moved) > MOST_MOVED:
                    self._moved.popitem(last=False)
        return found

    def add(self, picture: Picture) -> Picture:
        """Adds a picture; if there are too many, drops the least recently used one with its recordings."""
        with self._guard:
            self._added[picture.id] = picture
            while len(self._added) > MOST_PICTURES:
                gone, _ = self._added.popitem(last=False)
                self._forget(gone)
        return picture

    def remove(self, name: str, *, replaced: bool = False) -> None:
        """Removes an added picture from the list; with ``replaced``, it can still be requested for a while."""
        with self._guard:
            found = self._added.pop(name, None)
            if found is not None and replaced:
                self._moved[name] = found
            elif found is not None:
                self._forget(name)

    @staticmethod
    def new_id() -> str:
        """A new unique id for a picture."""
        return secrets.token_hex(6)

    def _forget(self, name: str) -> None:
        for key in [key for key in self._recordings if key[0] == name]:
            release(self._recordings.pop(key))

    # ------------------------------------------------------------------ computing

    async def compute(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function that uses the network in a thread, under the lock."""

        def alone() -> T:
            with self.lock:
                return function(*args, **kwargs)

        return await anyio.to_thread.run_sync(alone)

    async def read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function that only reads recordings in a thread, without the lock."""
        return await anyio.to_thread.run_sync(lambda: function(*args, **kwargs))

    async def recorded(self, name: str | None, *, training: bool = False) -> Recording:
        """The recording of a picture; runs the network if there is none yet."""
        picture = self.picture(name)
        found = self._found(picture.id, training)
        return found if found is not None else await self.compute(self.recording, picture.id, training=training)

    def recording(self, name: str | None, *, training: bool = False) -> Recording:
        """Like :meth:`recorded`, for callers in a thread, within :meth:`compute`.

        Raises:
            StudioError: no such picture, or the network fails on it.
        """
        from striate.studio.recording import record

        picture = self.picture(name)
        found = self._found(picture.id, training)
        if found is None:
            with self.lock:
                found = record(self.subject.model, picture.inputs, training=training)
            self._keep(picture.id, training, found)
        return found

    def warm(self) -> None:
        """Runs the network on the first picture in advance; errors appear when the page requests the recording."""
        with contextlib.suppress(Exception):
            self.recording(None)

    def _found(self, name: str, training: bool) -> Recording | None:
        with self._guard:
            found = self._recordings.get((name, training))
            if found is not None:
                self._recordings.move_to_end((name, training))
            return found

    def _keep(self, name: str, training: bool, made: Recording) -> None:
        with self._guard:
            self._recordings[name, training] = made
            while len(self._recordings) > 1 and sum(each.bytes for each in self._recordings.values()) > self._kept:
                release(self._recordings.popitem(last=False)[1])
