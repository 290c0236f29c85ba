"""What an Ollama server has told of its models: names, files of weights, who is in memory.

Without I/O: the provider asks, and what it heard is remembered here. Keys are canonical names, see
:func:`workbench.providers.ollama_wire.canonical`.
"""

from __future__ import annotations

import datetime as dt
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from workbench.providers import ollama_wire as wire
from workbench.providers.base import ResidentModel
from workbench.providers.ollama_pids import blob_of

Entry = Mapping[str, Any]


class KnownModels:
    """The models of one server, as last heard of.

    What only reads may be called from any thread, the rest from the provider's event loop.
    """

    def __init__(self) -> None:
        # What /api/show said, with the digest it is true for:
        self._shown: dict[str, tuple[str | None, Entry]] = {}
        # the file of weights that it named:
        self._blobs: dict[str, str | None] = {}
        # what was listed last: names as they were created, and what they stand for:
        self._spelled: dict[str, str] = {}
        self._digests: dict[str, str | None] = {}
        # what is in memory, and until when (monotonic seconds) if nobody uses it:
        self._resident: dict[str, tuple[ResidentModel, float]] = {}
        self._streams: Counter[str] = Counter()
        self._loading: Counter[str] = Counter()

    # -- hearing -----------------------------------------------------------------------------------

    def listed(self, tags: Mapping[str, Entry], running: Mapping[str, Entry]) -> None:
        """It has listed what is on its disk and what is in its memory."""
        self._spelled = {key: wire.name_of(entry) for key, entry in {**running, **tags}.items()}
        self._digests = {key: tag.get("digest") for key, tag in tags.items()}
        now = dt.datetime.now(dt.UTC)
        for key, (known, _) in list(self._resident.items()):
            entry = self.entry(key, tags.get(key, {}), running)
            if entry is not None:
                self._resident[key] = (known, ends_at(wire.seconds_left(entry, now)))
            elif not self._streams[key]:
                del self._resident[key]
        for key, entry in running.items():
            if key not in self._resident:
                shown = self._shown.get(key, (None, {}))[1]
                made = wire.resident_model(wire.name_of(entry), None, entry, shown, ())
                self._resident[key] = (made, ends_at(wire.seconds_left(entry, now)))

    def described(self, key: str, digest: str | None, shown: Entry) -> None:
        """It has said what a model of that digest is."""
        self._shown[key] = (digest, shown)
        self._blobs[key] = blob_of(str(shown.get("modelfile")))

    def loaded(self, key: str, resident: ResidentModel, until: float) -> None:
        """It has loaded a model, or renewed its stay."""
        self._resident[key] = (replace(resident, fresh=False), until)
        self._stays(key, until)

    @contextmanager
    def loading(self, key: str) -> Iterator[None]:
        """A load is under way."""
        self._loading[key] += 1
        try:
            yield
        finally:
            self._loading[key] -= 1
            self._loading += Counter()  # leaves out what is 0

    @contextmanager
    def answering(self, key: str, stay_s: float) -> Iterator[None]:
        """An answer is under way; after it the model stays so long."""
        self._streams[key] += 1
        try:
            yield
        finally:
            self._streams[key] -= 1
            self._stays(key, ends_at(stay_s))

    def _stays(self, key: str, until: float) -> None:
        """The time of its runner begins anew, whoever used it by which name."""
        for one in self._names(key):
            if (known := self._resident.get(one)) is not None:
                self._resident[one] = (known[0], until)

    def forget(self, key: str) -> None:
        """It is not in memory any more, by none of its names."""
        for one in self._names(key):
            self._resident.pop(one, None)

    def forget_all(self) -> list[str]:
        """Nothing is in memory any more.

        Returns:
            The names of what was.
        """
        lost = [known.name for key, (known, _) in self._resident.items() if self._there(key)]
        self._resident.clear()
        return lost

    # -- telling -----------------------------------------------------------------------------------

    def description(self, key: str, digest: str | None) -> Entry | None:
        """What was said of the model of that digest; None: it has to be asked."""
        said_of, shown = self._shown.get(key, (None, None))
        return shown if digest is not None and digest == said_of else None

    def is_described(self, key: str) -> bool:
        """Whether anything was said of a model of that name."""
        return key in self._shown

    def in_memory(self, key: str) -> ResidentModel | None:
        """The model if it was brought in under just this name, though its stay may have run out."""
        known, _ = self._resident.get(key, (None, 0.0))
        return known

    def resident(self, model: str) -> ResidentModel | None:
        """The model if it was in memory when last heard of and its stay has not run out.

        That is so too if it was another name of its weights that had brought it in.
        """
        names = self._names(wire.canonical(model))
        busy = any(self._streams[key] for key in names)
        for key in names:
            known = self.in_memory(key)
            if known is not None and (busy or self._there(key)):
                return known if key == names[0] else replace(known, name=model)
        return None

    def residents(self) -> list[str]:
        """Names of those that were in memory when last heard of, and of those on their way."""
        keys = dict.fromkeys([*self._resident, *self._loading])
        return [self._spelled.get(key, key) for key in keys]

    def sharing(self, key: str) -> Sequence[str]:
        """Other names of the same file of weights."""
        return [self._spelled.get(one, one) for one in self._names(key) if one != key]

    def entry(self, key: str, tag: Entry, running: Mapping[str, Entry]) -> Entry | None:
        """What ``/api/ps`` says of a model; of models that share weights it lists only one.

        Args:
            key: of the model.
            tag: its entry in ``/api/tags``; empty if there is none.
            running: the entries of ``/api/ps``.
        """
        if key in running:
            return running[key]
        digest, blob = tag.get("digest"), self.blob(key)
        for other, entry in running.items():
            if (digest and digest == entry.get("digest")) or (blob and blob == self.blob(other)):
                return entry
        return None

    def blob(self, key: str) -> str | None:
        """The file of its weights, of a name that was described or is another of one that was."""
        return next((blob for one in self._named(key) if (blob := self._blobs.get(one))), None)

    def _there(self, key: str) -> bool:
        """Whether its stay has not run out, under just this name."""
        _, until = self._resident.get(key, (None, 0.0))
        return time.monotonic() < until or self._streams[key] > 0

    def _names(self, key: str) -> list[str]:
        """All names of the same file of weights, this one first."""
        same, blob = self._named(key), self.blob(key)
        described = [one for one, its in list(self._blobs.items()) if blob and its == blob]
        return [*dict.fromkeys([*same, *described])]

    def _named(self, key: str) -> list[str]:
        """The names that its server lists for the same model, this one first."""
        digest = self._digests.get(key)
        same = [one for one, its in list(self._digests.items()) if digest and its == digest]
        return [key, *(one for one in same if one != key)]


def ends_at(seconds: float) -> float:
    """Monotonic seconds at which a stay of that length ends; negative: never."""
    return math.inf if seconds < 0 else time.monotonic() + seconds
