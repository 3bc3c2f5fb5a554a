"""`python -m farm`: the operator's command line, to inspect a farm and control its jobs."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from farm import operator_commands as commands
from farm import serving
from farm.client.farm import Farm, FarmReader
from farm.errors import (
    FarmError,
    NoClusterError,
    RequestError,
    StoreError,
    UnreadableError,
    WorkerError,
)
from farm.logs import log_to_stderr
from farm.model.job import JobRecord
from farm.model.usage import FIRST_DAY
from farm.records.stored import StoredJobs
from farm.settings import known_secrets, load_settings
from svd_engine.command_line import STATUSES, Parser, name_of, one_line
from svd_engine.completion import add_completion

SCRIPT = "farm"  # the name of this command in an installation
SHOWN = 1000  # jobs that `status` counts if no farm runs
DEMO = "demo/store"  # the store that `make demo` leaves behind
# The commands that can read a store without a running farm; of `gc`, only the dry run.
STORED = ("jobs", "show", "logs", "usage", "gc")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0 if it worked, 1 if it failed, 2 for wrong usage or a bad store."""
    options = _parser().parse_args(arguments)
    try:
        _log()
        if options.here is not None:
            return int(options.here(options))
        options.run(_farm_of(options), options)
    except NoClusterError as error:
        if options.command != "status":
            return _say(f"{error}{_where_to_look(options.store)}", 1)
        print("\n".join(_without_a_farm(options.store)))
        return 1
    except WorkerError as error:
        return _say(f"{error}{_where_to_look(options.store)}", 1)
    except (RequestError, StoreError, UnreadableError) as error:
        return _say(str(error), 2)
    except FarmError as error:
        return _say(str(error), 1)
    except KeyboardInterrupt:
        return 130
    return 0


def _log() -> None:
    """Log as the settings say; if they are wrong, the command itself reports that."""
    settings = None
    with suppress(RequestError):
        settings = load_settings()
    log_format = settings.log_format if settings else "console"
    log_to_stderr(log_format, known_secrets(settings), command=True)


def _say(text: str, status: int) -> int:
    print(f"error: {one_line(text)}", file=sys.stderr)
    return status


def _farm_of(options: argparse.Namespace) -> FarmReader:
    """The running farm, or the named store if the command needs no running farm."""
    if options.store is not None and options.command in STORED and not commands.deletes(options):
        return FarmReader(StoredJobs(options.store, load_settings(store=options.store).retention))
    from farm.client.ray_link import connect  # Ray is slow to load

    return connect(load_settings(store=options.store), start=False, door="command")


def _where_to_look(store: str | None) -> str:
    """A hint where to find jobs if no farm is running."""
    url, _ = _last_jobs(store)
    name = name_of("farm", SCRIPT)
    return f"; to list the jobs of an earlier farm: {name} jobs --all --store {url or 'URL'}"


def _without_a_farm(store: str | None) -> list[str]:
    """What `status` says if no farm is running: where its last jobs are, and what can be done."""
    name, (url, jobs) = name_of("farm", SCRIPT), _last_jobs(store)
    lines = ["No farm runs here now."]
    if jobs:
        states = Counter(job.state.value for job in jobs)
        counts = ", ".join(f"{number} {state}" for state, number in states.items())
        lines += [
            f"The last jobs are in {url}: {counts}.",
            f"  look at them:    {name} jobs --all --store {url}",
            f"  serve them:      {name} serve --store {url}",
        ]
    return [
        *lines,
        f"  start a farm:    {name} serve",
        f"  render pictures: {name_of('farm.batch')} PICTURES --out FOLDER",
    ]


def _last_jobs(store: str | None) -> tuple[str, list[JobRecord]]:
    """The first store that has jobs, and some of them; else the first store that there is."""
    there = ""
    for url in filter(None, (store, load_settings().store, DEMO)):
        with suppress(FarmError):
            jobs = FarmReader(StoredJobs(url)).jobs("", SHOWN, open_only=False)
            if jobs:
                return url, jobs
            there = there or url
    return there, []


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        name_of("farm", SCRIPT),
        description="Inspect a farm, and control its jobs.",
        epilog=STATUSES,
    )
    parser.set_defaults(here=None)
    add_completion(parser, SCRIPT)
    parser.add_argument("--store", metavar="URL", help="the farm's store (default: FARM_STORE)")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Farm, argparse.Namespace], None], text: str) -> None:
        sub = subparsers.add_parser(name, help=text, description=text, epilog=STATUSES)
        sub.set_defaults(run=run)
        alone = ", which is read directly, with or without a farm" if name in STORED else ""
        sub.add_argument(
            "--store",
            default=argparse.SUPPRESS,  # so that a --store before the command is not overwritten
            metavar="URL",
            help=f"the farm's store{alone} (default: FARM_STORE)",
        )
        _add_options(sub, name)

    command("status", commands.status, "show the workers, their tasks, and open jobs by tenant")
    command("jobs", commands.jobs, "list the open jobs, oldest first")
    command("show", commands.show, "show a job's record and progress as JSON")
    command("cancel", commands.control(Farm.cancel), "stop a job at its next step or chunk")
    command("pause", commands.control(Farm.pause), "start no more of a job's tasks")
    command("resume", commands.control(Farm.resume), "continue a paused job")
    command("priority", commands.priority, "change an open job's priority")
    command("drain", commands.drain, "give a worker no more tasks")
    command("logs", commands.logs, "show a job's event log")
    command("usage", commands.usage, "print what tenants used by day, as CSV")
    command("gc", commands.gc, "delete jobs that are past keeping, and what no job names")
    _add_commands_here(subparsers)
    return parser


def _add_commands_here(subparsers: Any) -> None:
    """Add the commands that concern this machine, and need no farm."""

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = subparsers.add_parser(
            name, help=text, description=text, epilog=STATUSES
        )
        sub.set_defaults(here=run)
        sub.add_argument(
            "--store", default=argparse.SUPPRESS, metavar="URL", help="instead of FARM_STORE"
        )
        sub.add_argument("--json", action="store_true", help="print JSON")
        return sub

    command("config", commands.config, "show the settings in effect, and where each comes from")
    audit = command(
        "audit", commands.audit, "show who changed what, in the running farm's store or in --store"
    )
    _add_since(audit)
    audit.add_argument(
        "--tenant", metavar="T", help="only what a tenant did, or what was done to its jobs"
    )
    _add_serve(subparsers)
    doctor = command(
        "doctor", commands.doctor, "check what a farm needs on this machine, with or without a farm"
    )
    doctor.add_argument(
        "--bundle", metavar="FILE", help="write an archive for a report of a fault, without secrets"
    )
    doctor.add_argument("--job", metavar="JOB", help="with this job's record, log and clips in it")
    doctor.add_argument("--yes", action="store_true", help="write it without asking")


def _add_serve(subparsers: Any) -> None:
    serve: argparse.ArgumentParser = subparsers.add_parser(
        "serve",
        help="serve the farm over HTTP, with its page, until Ctrl-C",
        description="Serve the farm over HTTP, with its page, until Ctrl-C.",
        epilog=STATUSES,
    )
    serve.set_defaults(here=serving.serve)
    serve.add_argument(
        "--store", default=argparse.SUPPRESS, metavar="URL", help="instead of FARM_STORE"
    )


def _add_since(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--since",
        type=commands.day,
        default=FIRST_DAY,
        metavar="DAY",
        help="from YYYY-MM-DD on, in UTC",
    )


def _add_options(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the arguments and options of one command."""
    if command in ("show", "cancel", "pause", "resume", "priority", "logs"):
        parser.add_argument("job", metavar="JOB", help="a job's id")
    if command == "priority":
        parser.add_argument("priority", type=int, metavar="N", help="0 to 100")
    if command == "jobs":
        parser.add_argument("--all", action="store_true", help="list finished jobs too")
        parser.add_argument("--after", default="", metavar="JOB", help="list jobs after this id")
        parser.add_argument(
            "--limit", type=int, default=100, metavar="N", help="list N jobs (default: 100)"
        )
    if command == "usage":
        _add_since(parser)
    if command == "gc":
        parser.add_argument(
            "--dry-run", action="store_true", help="only show what would be deleted"
        )
    if command == "drain":
        parser.add_argument("worker", metavar="WORKER", help="a worker's name, such as renderer-0")
        parser.add_argument("--undo", action="store_true", help="give it tasks again")
    if command == "logs":
        parser.add_argument(
            "--after", type=int, default=0, metavar="N", help="show the entries after entry N"
        )
        parser.add_argument(
            "--follow",
            "-f",
            action="store_true",
            help="wait for more until the job is finished",
        )


if __name__ == "__main__":
    sys.exit(main())
