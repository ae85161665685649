"""What one studio works with: the subject, its pictures, and the recordings that were made of them.

Recordings are kept up to a number of bytes, the one that was used least recently goes first. Whatever runs the network
holds the lock, for a network's layers have one mode and one set of hooks; reading what is recorded doesn't wait.
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

#: Bytes of recordings that are kept.
KEPT: Final = 600 << 20
#: Pictures that are kept; those that the studio was started with always are.
MOST_PICTURES: Final = 64
#: Moved and replaced pictures that are kept, which aren't listed.
MOST_MOVED: Final = 16
#: What parts a picture's id from how it was moved.
MARK: Final = "~"


@dataclass(frozen=True, eq=False)
class Picture:
    """Something that the network is shown.

    Args:
        id: its name in addresses.
        name: for people.
        inputs: what the network takes, as ``record`` takes it: a tensor (1, C, H, W), or several.
        pixels: uint8 (C, H, W), C 1 or 3, what the network sees before pixels are scaled; None if it is no picture.
        source: uint8 (C, H, W), the picture before it was brought to the network's size; None if it is no picture.
        label: number of its true class, if that is known.
        made: the changes that made it out of another picture, as data for the page.
        code: Python that makes ``inputs``.
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
        """What the page lists; pixels are asked for by themselves."""
        size = None if self.pixels is None else list(self.pixels.shape)
        return {"id": self.id, "name": self.name, "size": size, "label": self.label, "made": self.made}


class Workspace:
    """The state of a studio.

    Args:
        subject: what is shown.
        pictures: those that it starts with, at least one.
        kept: bytes of recordings.
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
        """All of them, those of the start first."""
        with self._guard:
            return (*self._own.values(), *self._added.values())

    def picture(self, name: str | None) -> Picture:
        """The picture with an id; for None the first.

        Raises:
            StudioError: there is none.
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
        """What a picture becomes by the moves that an id names (:mod:`striate.studio.pictures`)."""
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
        """Keeps a picture; the one that was used least recently goes, with its recordings, where there are too many."""
        with self._guard:
            self._added[picture.id] = picture
            while len(self._added) > MOST_PICTURES:
                gone, _ = self._added.popitem(last=False)
                self._forget(gone)
        return picture

    def remove(self, name: str, *, replaced: bool = False) -> None:
        """Forgets a picture that was added; one that another has ``replaced`` can still be asked for a while."""
        with self._guard:
            found = self._added.pop(name, None)
            if found is not None and replaced:
                self._moved[name] = found
            elif found is not None:
                self._forget(name)

    @staticmethod
    def new_id() -> str:
        """An id that no other picture has."""
        return secrets.token_hex(6)

    def _forget(self, name: str) -> None:
        for key in [key for key in self._recordings if key[0] == name]:
            release(self._recordings.pop(key))

    # ------------------------------------------------------------------ computing

    async def compute(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs what uses the network in a thread, alone."""

        def alone() -> T:
            with self.lock:
                return function(*args, **kwargs)

        return await anyio.to_thread.run_sync(alone)

    async def read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs what reads recordings only in a thread, beside whatever is being computed."""
        return await anyio.to_thread.run_sync(lambda: function(*args, **kwargs))

    async def recorded(self, name: str | None, *, training: bool = False) -> Recording:
        """The recording of a picture: at once if there is one, else after the network has run."""
        picture = self.picture(name)
        found = self._found(picture.id, training)
        return found if found is not None else await self.compute(self.recording, picture.id, training=training)

    def recording(self, name: str | None, *, training: bool = False) -> Recording:
        """The same for callers in a thread, within :meth:`compute`.

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
        """Runs the network on the first picture, so that the page finds its numbers there; a failure shows later."""
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
