"""The loop that renders all clips: schedule, run, postprocess."""

from farm.coordinator.dispatcher import Dispatcher
from farm.coordinator.metrics import Metrics
from farm.coordinator.quotas import Quotas
from farm.coordinator.sharing import Sharing


async def render_forever(
    dispatcher: Dispatcher, sharing: Sharing, metrics: Metrics, quotas: Quotas
) -> None:
    """Render the clips that jobs wait for."""
    while True:
        dispatcher.schedule()
        for report in await dispatcher.reports():
            metrics.count_report(report)
            quotas.count_report(report)
            for event in dispatcher.postprocess(report):
                metrics.count_event(event)
                quotas.count_event(event)
                sharing.apply(event)
        sharing.set_held(quotas.held())
