"""The keys in force: from the settings, or from a file that may change while the farm runs."""

import logging
import time
from collections.abc import Callable, Mapping

from farm.errors import RequestError
from farm.settings import Key, Settings, read_keys

log = logging.getLogger("farm")

LOOK_S = 2.0  # the shortest time between two reads of the file


class Keys:
    """Keys by their sha256, at most LOOK_S out of date."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises RequestError for a file that cannot be read, or contains anything but keys."""
        if settings.keys and settings.keys_file is not None:
            raise RequestError("FARM_KEYS and FARM_KEYS_FILE: give one of them")
        self._file, self._clock = settings.keys_file, clock
        self._known: Mapping[str, Key] = settings.keys
        self._looked = clock()
        if self._file is not None:
            self._known = read_keys(self._file)

    @property
    def needed(self) -> bool:
        """Whether callers need a key. With an empty file they do, and nobody is admitted."""
        return self._file is not None or bool(self._known)

    def find(self, name: str) -> Key | None:
        """The key with that sha256; None for an unknown one."""
        if self._file is not None and self._clock() - self._looked >= LOOK_S:
            self._looked = self._clock()
            try:
                self._known = read_keys(self._file)
            except RequestError as error:  # the file may be half written
                log.error("%s; the keys read before stay in force", error)
        return self._known.get(name)
