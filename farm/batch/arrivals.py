"""`--watch`: which pictures have arrived at the inputs, and are whole.

The inputs are listed again and again in place of asking the system for events: this works for
S3, for globs and for folders of other machines, too.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from farm.batch.inputs import Digests, Inputs, find_pictures
from farm.batch.listing import Listing, Search
from farm.batch.manifest import MANIFESTS
from farm.batch.source import Source
from farm.store import Store

LOOK_EVERY_S = 2.0
_Stamp = tuple[int, float]  # a file's size, and when it was written


class Arrivals:
    """Pictures that arrive. One that is still being written is not taken: it changes."""

    def __init__(self, given: Sequence[str], search: Search) -> None:
        self._given, self._search = given, search
        self._digests = Digests()
        self._seen: dict[Source, _Stamp] = {}  # at the last look
        self._taken: dict[Source, _Stamp] = {}

    def look(self) -> Inputs | None:
        """The pictures that have arrived or changed since, and are whole; None if there are none.

        A picture is whole when it is as it was at the look before. The rows of a manifest arrive
        when it does. Raises RequestError for an input that cannot be searched, and StoreError.
        """
        seen: dict[Source, _Stamp] = {}
        settled: dict[Source, _Stamp] = {}

        def only_settled(listing: Listing) -> Listing:
            stamps = _stamps(listing.sources)
            seen.update(stamps)
            whole = {s: stamp for s, stamp in stamps.items() if self._seen.get(s) == stamp}
            for source, stamp in whole.items():
                if self._taken.get(source) != stamp:
                    self._digests.forget(source)
            settled.update(whole)
            return replace(
                listing, sources=[source for source in listing.sources if source in whole]
            )

        inputs = find_pictures(self._given, self._search, only_settled, self._digests)
        new = {source for source, stamp in settled.items() if self._taken.get(source) != stamp}
        self._seen, self._taken = seen, settled
        rows = any(source.path.lower().endswith(MANIFESTS) for source in new)
        pictures = [
            picture
            for picture in inputs.pictures
            if picture.origin in new or (rows and picture.origin not in settled)
        ]
        return replace(inputs, pictures=pictures) if pictures else None


def _stamps(sources: Sequence[Source]) -> dict[Source, _Stamp]:
    """The stamp of each file or object that is there and not empty."""
    stamps: dict[Source, _Stamp] = {}
    stores: dict[Store, list[Source]] = {}
    for source in sources:
        if source.store:
            stores.setdefault(source.store, []).append(source)
            continue
        try:
            found = Path(source.path).stat()
        except OSError:  # it has just been moved away
            continue
        stamps[source] = (found.st_size, found.st_mtime)
    for store, objects in stores.items():
        wanted = {each.path: each for each in objects}
        for entry in store.entries(_common_folder(list(wanted))):
            if entry.key in wanted:
                stamps[wanted[entry.key]] = (entry.size, entry.written_at)
    return {source: stamp for source, stamp in stamps.items() if stamp[0]}


def _common_folder(keys: Sequence[str]) -> str:
    """The longest folder that all keys are below, as a prefix."""
    first, last = min(keys), max(keys)
    same = next(
        (n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)
    )
    return first[:same].rpartition("/")[0] + "/" if "/" in first[:same] else ""
