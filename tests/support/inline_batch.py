"""`python -m farm.batch` in this process, with a whole coordinator and quick workers."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from farm.batch import __main__ as batch
from farm.client.farm import Farm
from tests.support.inline_farm import coordinator

CALL_S = 60.0  # how long a call may take; generous


@contextmanager
def inline_batch(store: Path) -> Iterator[Farm]:
    """A farm that batches use within the context. Needs the fixture `inline`."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def await_(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(CALL_S)

    context = coordinator(store)
    running = await_(context.__aenter__())
    farm = Farm(running, loop)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batch, "_connect", lambda *_: farm)
            yield farm
    finally:
        await_(context.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(CALL_S)
        loop.close()


def run(*arguments: object) -> int:
    return batch.main([str(argument) for argument in arguments])
