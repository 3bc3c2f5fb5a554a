"""The loop that renders all clips: schedule, run, postprocess."""

from farm.coordinator.dispatcher import Dispatcher
from farm.coordinator.sharing import Sharing


async def render_forever(dispatcher: Dispatcher, sharing: Sharing) -> None:
    """Render the clips that jobs wait for."""
    while True:
        dispatcher.schedule()
        for report in await dispatcher.reports():
            for event in dispatcher.postprocess(report):
                sharing.apply(event)
