"""What the operator's commands do with a farm, and what they print."""

import argparse
import csv
import json
import sys
import time
from collections.abc import Callable
from datetime import date

from farm.client.farm import Farm, FarmReader
from farm.errors import JobError
from farm.logs.lines import printable, rfc3339
from farm.model.audit import AuditEntry
from farm.model.audit import as_json as audit_json
from farm.model.job import JobRecord, JobView
from farm.model.usage import COLUMNS, rows
from farm.quantities import counted, sized
from farm.records.audit_log import read_audit
from farm.records.stored import StoredJobs
from farm.settings import as_json, as_toml, effective, load_settings
from farm.store import Store
from svd_engine.nearest import did_you_mean

FOLLOW_S = 1.0  # between two reads of a log that is followed
NAMED = 1000  # the number of ids in which to look for one like an unknown id


def config(options: argparse.Namespace) -> int:
    settings = effective(store=options.store)
    text = json.dumps(as_json(settings), indent=1) if options.json else "\n".join(as_toml(settings))
    print(text)
    return 0


def doctor(options: argparse.Namespace) -> int:
    from farm.doctor.command import run  # loads much that other commands do not need

    return run(options)


def status(farm: Farm, _options: argparse.Namespace) -> None:
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


def jobs(farm: FarmReader, options: argparse.Namespace) -> None:
    jobs = farm.jobs(options.after, options.limit, open_only=not options.all)
    for job in jobs:
        print(_line(job))
    if not jobs:
        print("no jobs" if options.all else "no open jobs; --all shows the finished ones too")


def usage(farm: FarmReader, options: argparse.Namespace) -> None:
    table = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows(farm.usage(options.since)))


def deletes(options: argparse.Namespace) -> bool:
    """Whether the command `gc` is to delete, and not only to say what it would."""
    return options.command == "gc" and not options.dry_run


def gc(farm: FarmReader, options: argparse.Namespace) -> None:
    deleting = isinstance(farm, Farm) and deletes(options)
    found = farm.collect_garbage() if isinstance(farm, Farm) and deleting else farm.garbage()
    row = "{:15}  {:15}  {:>7}  {:>7}  {:>10}"
    if found:
        print(row.format("kind", "tenant", "number", "objects", "size"))
    for each in found:
        print(
            row.format(each.kind, each.tenant or "-", each.items, each.objects, sized(each.bytes))
        )
    total = sized(sum(each.bytes for each in found))
    print(f"{total} {'were' if deleting else 'would be'} freed" if found else "nothing to delete")


def audit(options: argparse.Namespace) -> int:
    for entry in read_audit(_store_of(options.store), options.since, options.tenant):
        print(json.dumps(audit_json(entry)) if options.json else _audit_line(entry))
    return 0


def _store_of(url: str | None) -> Store:
    """The store at a URL, or that of the running farm."""
    if url is not None:
        return StoredJobs(url).store
    from farm.client.ray_link import connect  # Ray is slow to load

    return connect(load_settings(), start=False, door="command").store()


def _audit_line(entry: AuditEntry) -> str:
    at = rfc3339(entry.at)
    who = f"{entry.door} {entry.client}" + (f" key {entry.key}" if entry.key else "")
    who = who.strip() or "-"
    what = " ".join([entry.action, entry.target, *(f"{n}={v}" for n, v in entry.arguments.items())])
    why = f": {entry.why}" if entry.why else ""
    text = f"{at}  {entry.tenant or '-'}  {who}  {what}  {entry.outcome}{why}"
    return printable(f"{text}  [{entry.request_id}]" if entry.request_id else text)


def day(text: str) -> date:
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


def show(farm: FarmReader, options: argparse.Namespace) -> None:
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


def control(method: Callable[[Farm, str], JobView]) -> Callable[[Farm, argparse.Namespace], None]:
    def run(farm: Farm, options: argparse.Namespace) -> None:
        _view(farm, options.job)
        job = method(farm, options.job).job
        print(f"{job.id} is {job.state}; {job.gpu_seconds:.1f} GPU seconds spent")

    return run


def priority(farm: Farm, options: argparse.Namespace) -> None:
    _view(farm, options.job)
    print(_line(farm.set_priority(options.job, options.priority).job))


def drain(farm: Farm, options: argparse.Namespace) -> None:
    status = farm.drain(options.worker, not options.undo)
    print(f"{options.worker} is {status['workers'][options.worker]['state']}")


def logs(farm: FarmReader, options: argparse.Namespace) -> None:
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
