"""The results of a simulation, as a picture."""

from pathlib import Path

from farm.simulate.report import PRIORITIES, TENANTS, Report


def plot(report: Report, path: Path) -> None:
    """Draw a run: utilisation, waiting jobs, and waiting times."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (top, middle, bottom) = pyplot.subplots(3, 1, figsize=(9, 10), layout="constrained")
    figure.suptitle(
        f"{report.gpus:,} GPUs, {report.jobs:,} jobs, {report.preempted:,} GPUs taken away:"
        f" {report.utilisation:.1%} at work while work waits"
    )
    times = [t for t, _, _ in report.samples]
    top.plot(times, [100 * share for _, share, _ in report.samples], color="#2a7f62")
    top.set(ylim=(0, 103), ylabel="GPUs at work, %", xlabel="simulated seconds")
    queues = ([q.get(t, 0) for _, _, q in report.samples] for t in TENANTS)
    middle.stackplot(times, *queues, labels=TENANTS, colors=("#33658a", "#86bbd8", "#f6ae2d"))
    middle.set(ylabel="jobs not begun", xlabel="simulated seconds")
    middle.legend(title="tenant", loc="upper left", frameon=False)
    for priority, color in zip(sorted(PRIORITIES), ("#33658a", "#f6ae2d", "#c8553d"), strict=True):
        waits = report.waits_of(priority)
        begun = [100 * (n + 1) / len(waits) for n in range(len(waits))]
        bottom.step([0, *waits], [0, *begun], where="post", color=color, label=priority)
    bottom.set(ylim=(0, 103), ylabel="jobs begun, %", xlabel="seconds since they were submitted")
    bottom.legend(title="priority", loc="lower right", frameon=False)
    for axes in (top, middle, bottom):
        axes.grid(alpha=0.25)
        axes.margins(x=0.01)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
