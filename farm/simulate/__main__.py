"""`python -m farm.simulate`: run the farm's scheduler on a simulated clock and simulated GPUs.

Jobs of three tenants arrive faster than the farm can render them; tasks fail, workers die, and spot
GPUs are taken away and come back. Utilisation is the share of time that GPUs work, including those
that load a model, counted for each kind of worker while a ready task of that kind waits. Failed
work counts as work; the delay between a decision and its task does not.
"""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from farm.simulate.plot import plot
from farm.simulate.simulation import Simulation
from svd_engine.command_line import STATUSES, Parser, name_of, positive


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print the report, and draw it if asked to. Returns 0."""
    parser = Parser(
        name_of("farm.simulate"),
        description="Run the farm's scheduler on a simulated clock and simulated GPUs.",
        epilog=STATUSES,
    )
    for name, default in (("--gpus", 10_000), ("--jobs", 200_000)):
        parser.add_argument(
            name, type=positive, default=default, metavar="N", help=f"(default: {default})"
        )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default: 0)")
    parser.add_argument("--out", metavar="PNG", help="draw the run there (needs matplotlib)")
    options = parser.parse_args(arguments)
    if options.out and not find_spec("matplotlib"):
        parser.error("--out needs matplotlib: pip install matplotlib")
    if options.out and not Path(options.out).absolute().parent.is_dir():
        parser.error(f"--out: there is no folder {Path(options.out).parent}")
    report = Simulation(options.gpus, options.jobs, options.seed).run()
    print("\n".join(report.lines()))
    if options.out:
        plot(report, Path(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
