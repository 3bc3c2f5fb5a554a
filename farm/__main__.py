"""`python -m farm`: the operator's command line, to inspect a farm and control its jobs."""

import argparse
import csv
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import date
from typing import Any

from farm.client.farm import Farm, FarmReader
from farm.errors import (
    FarmError,
    JobError,
    RequestError,
    StoreError,
    UnreadableError,
    WorkerError,
)
from farm.model.job import JobRecord, JobView
from farm.model.usage import COLUMNS, FIRST_DAY, rows, usage_by_day
from farm.quantities import counted
from farm.records.stored import StoredJobs
from farm.settings import as_json, as_toml, effective, load_settings
from svd_engine.command_line import STATUSES, Parser, one_line
from svd_engine.nearest import did_you_mean

FOLLOW_S = 1.0  # between two reads of a log that is followed
DEMO = "demo/store"  # the store that `make demo` leaves behind
STORED = ("jobs", "show", "logs", "usage")  # commands that can read a store without a running farm
PAGE = 1000  # jobs that are read at once
NAMED = 1000  # the number of ids in which to look for one like an unknown id


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0 if it worked, 1 if it failed, 2 for wrong usage or a bad store."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(name)s: %(message)s")
    try:
        if options.here is not None:
            return int(options.here(options))
        options.run(_farm_of(options), options)
    except WorkerError as error:
        return _say(f"{error}{_where_to_look(options.store)}", 1)
    except (RequestError, StoreError, UnreadableError) as error:
        return _say(str(error), 2)
    except FarmError as error:
        return _say(str(error), 1)
    except KeyboardInterrupt:
        return 130
    return 0


def _say(text: str, status: int) -> int:
    print(f"error: {one_line(text)}", file=sys.stderr)
    return status


def _farm_of(options: argparse.Namespace) -> FarmReader:
    """The running farm, or the named store if the command needs no running farm."""
    if options.store is not None and options.command in STORED:
        return FarmReader(StoredJobs(options.store))
    from farm.client.ray_link import connect  # Ray is slow to load

    return connect(load_settings(store=options.store), start=False)


def _where_to_look(store: str | None) -> str:
    """A hint where to find jobs if no farm is running."""
    for url in filter(None, (store, load_settings().store, DEMO)):
        with suppress(FarmError):
            StoredJobs(url)
            return f"; to list the jobs of an earlier farm: python -m farm jobs --all --store {url}"
    return "; to list the jobs of an earlier farm: python -m farm jobs --all --store URL"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "python -m farm",
        description="Inspect a farm, and control its jobs.",
        epilog=STATUSES,
    )
    parser.set_defaults(here=None)
    parser.add_argument("--store", metavar="URL", help="the farm's store (default: FARM_STORE)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Farm, argparse.Namespace], None], text: str) -> None:
        sub = commands.add_parser(name, help=text, description=text, epilog=STATUSES)
        sub.set_defaults(run=run)
        alone = ", which is read directly, with or without a farm" if name in STORED else ""
        sub.add_argument(
            "--store",
            default=argparse.SUPPRESS,  # so that a --store before the command is not overwritten
            metavar="URL",
            help=f"the farm's store{alone} (default: FARM_STORE)",
        )
        _add_options(sub, name)

    command("status", _status, "show the workers, their tasks, and open jobs by tenant")
    command("jobs", _jobs, "list the open jobs, oldest first")
    command("show", _show, "show a job's record and progress as JSON")
    command("cancel", _control(Farm.cancel), "stop a job at its next step or chunk")
    command("pause", _control(Farm.pause), "start no more of a job's tasks")
    command("resume", _control(Farm.resume), "continue a paused job")
    command("priority", _priority, "change an open job's priority")
    command("drain", _drain, "give a worker no more tasks")
    command("logs", _logs, "show a job's event log")
    command("usage", _usage, "print what tenants used by day, as CSV")
    _add_commands_here(commands)
    return parser


def _add_commands_here(commands: Any) -> None:
    """Add the commands that concern this machine, and need no farm."""

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=text, epilog=STATUSES
        )
        sub.set_defaults(here=run)
        sub.add_argument(
            "--store", default=argparse.SUPPRESS, metavar="URL", help="instead of FARM_STORE"
        )
        sub.add_argument("--json", action="store_true", help="print JSON")
        return sub

    command("config", _config, "show the settings in effect, and where each comes from")
    doctor = command(
        "doctor", _doctor, "check what a farm needs on this machine, with or without a farm"
    )
    doctor.add_argument(
        "--bundle", metavar="FILE", help="write an archive for a report of a fault, without secrets"
    )
    doctor.add_argument("--job", metavar="JOB", help="with this job's record, log and clips in it")
    doctor.add_argument("--yes", action="store_true", help="write it without asking")


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
        parser.add_argument(
            "--since",
            type=_day,
            default=FIRST_DAY,
            metavar="DAY",
            help="from YYYY-MM-DD on, in UTC",
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


def _config(options: argparse.Namespace) -> int:
    settings = effective(store=options.store)
    text = json.dumps(as_json(settings), indent=1) if options.json else "\n".join(as_toml(settings))
    print(text)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from farm.doctor.command import run  # loads much that other commands do not need

    return run(options)


def _status(farm: Farm, _options: argparse.Namespace) -> None:
    status = farm.status()
    print(f"farm {status['version']}, coordinator {status['fence']}, store {status['store']}")
    for name, worker in status["workers"].items():
        at = f" {worker['task']} of {worker['clip'][:12]}" if "task" in worker else ""
        place = worker.get("place") or worker["node"]
        why = f": {worker['why']}" if worker.get("why") else ""
        print(f"  {name:14} {worker['state']:9} {place:22} {worker['gpus']:g} GPU{at}{why}")
    if status.get("blocked"):
        print(f"  jobs wait: {status['blocked']}")
    for tenant, states in status["jobs"].items():
        print(f"  {tenant}: " + ", ".join(f"{n} {state}" for state, n in states.items()))
    if not status["jobs"]:
        print("  no open jobs")
    if status["trouble"]:
        print(f"  nothing can be written: {status['trouble']['why']}")
    if status["quarantined"]:
        objects = counted(status["quarantined"], "object")
        print(f"  {objects} of the store cannot be read, see quarantine/:")
    for note in status["quarantine"]:
        print(f"    {note['key']}: {note['reason']}")


def _jobs(farm: FarmReader, options: argparse.Namespace) -> None:
    jobs = farm.jobs(options.after, options.limit, open_only=not options.all)
    for job in jobs:
        print(_line(job))
    if not jobs:
        print("no jobs" if options.all else "no open jobs; --all shows the finished ones too")


def _usage(farm: FarmReader, options: argparse.Namespace) -> None:
    table = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows(usage_by_day(_all_jobs(farm), options.since)))


def _all_jobs(farm: FarmReader) -> Iterator[JobRecord]:
    after = ""
    while jobs := farm.jobs(after, PAGE):
        yield from jobs
        after = jobs[-1].id


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"give a day, like 2026-11-28, not {text!r}") from error


def _line(job: JobRecord) -> str:
    created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.created_at))
    size = f"{job.request.params.width} x {job.request.params.height}"
    what = f"{len(job.results)}/{counted(job.request.num_videos, 'clip')} of {size}"
    rest = f": {job.error}" if job.error else ""
    return f"{job.id}  {created}  {job.tenant}  {job.priority:3}  {job.state:10} {what}{rest}"


def _show(farm: FarmReader, options: argparse.Namespace) -> None:
    print(_view(farm, options.job).model_dump_json(indent=1))


def _view(farm: FarmReader, name: str) -> JobView:
    """Look up a job. Raises JobError, with the most similar id, if there is none."""
    try:
        return farm.show(name)
    except JobError as error:
        if error.suggestion is not None:
            raise
        near = did_you_mean(name, [job.id for job in farm.jobs("", NAMED)])
        raise JobError(str(error), suggestion=near) from error


def _control(method: Callable[[Farm, str], JobView]) -> Callable[[Farm, argparse.Namespace], None]:
    def run(farm: Farm, options: argparse.Namespace) -> None:
        _view(farm, options.job)
        job = method(farm, options.job).job
        print(f"{job.id} is {job.state}; {job.gpu_seconds:.1f} GPU seconds spent")

    return run


def _priority(farm: Farm, options: argparse.Namespace) -> None:
    _view(farm, options.job)
    print(_line(farm.set_priority(options.job, options.priority).job))


def _drain(farm: Farm, options: argparse.Namespace) -> None:
    status = farm.drain(options.worker, not options.undo)
    print(f"{options.worker} is {status['workers'][options.worker]['state']}")


def _logs(farm: FarmReader, options: argparse.Namespace) -> None:
    after = options.after
    while True:
        open_still = _view(farm, options.job).job.state.is_open  # before the log, to miss no entry
        for entry in farm.events(options.job, after):
            after = entry.seq
            at = time.strftime("%H:%M:%S", time.localtime(entry.at))
            data = json.dumps(entry.data) if entry.data else ""
            print(f"{entry.seq:5}  {at}  {options.job}  {entry.event} {data}".rstrip(), flush=True)
        if not (options.follow and open_still):
            return
        time.sleep(FOLLOW_S)


if __name__ == "__main__":
    sys.exit(main())
