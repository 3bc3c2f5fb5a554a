"""The archive for a report of a fault, from which secrets are removed."""

import json
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import svd_engine
from farm.doctor.check import Context, Unchecked
from farm.doctor.installation import versions
from farm.doctor.reproduction import command_of
from farm.errors import RequestError, UnreadableError
from farm.masking import Masking
from farm.model.job import JobRecord
from farm.records.stored import StoredJobs
from farm.settings import as_json, effective, environment_for_reports, known_secrets
from farm.store import Store, open_store
from farm.store.keys import events_prefix, job_key, picture_key, result_key
from farm.store.records import parse_record

PATH = 12  # characters of a webhook's path from which on it counts as a secret
PATIENCE_S = 10.0  # how long an S3 server may take to answer
TOKENS = (".ray/auth_token", ".cache/huggingface/token")  # in the home folder


class Part(NamedTuple):
    """A file of the archive."""

    name: str
    what: str  # for people
    text: str


def parts_of(context: Context, report: dict[str, object], job: str | None) -> list[Part]:
    """What goes into the archive, without secrets. job: a job's id.

    Raises JobError if there is no such job, and StoreError if its store cannot be read.
    """
    about_job = [] if job is None else _job(context.need_settings().store, job)
    secrets = [*known_secrets(context.settings), *_token_files(), *_webhooks(about_job)]
    masking = Masking(secrets)

    def part(name: str, what: str, value: object) -> Part:
        if isinstance(value, str):
            return Part(name, what, masking.text(value))
        text = json.dumps(masking.value(value), indent=1, ensure_ascii=False)
        return Part(name, what, f"{text}\n")

    parts = [
        part("doctor.json", "what the doctor found", report),
        part("versions.json", "versions of Python and of packages", _versions()),
        part("settings.json", "the settings in effect, and their origin", _settings(context)),
        part("environment.json", "variables that matter here", environment_for_reports()),
    ]
    return [*parts, *(part(*each) for each in about_job)]


def write(parts: Iterable[Part], file: Path) -> None:
    """Write the archive, under a name that must be new."""
    with file.open("xb") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in parts:
            archive.writestr(part.name, part.text.encode(errors="backslashreplace"))


def _versions() -> dict[str, Any]:
    own = {"numerics": svd_engine.NUMERICS}
    try:
        return own | versions()
    except Unchecked as reason:
        return own | {"packages": str(reason)}


def _settings(context: Context) -> dict[str, Any]:
    if context.settings is None:
        return {"fault": context.fault}
    try:
        return as_json(effective(store=context.store))
    except RequestError as error:
        return {"fault": str(error)}


def _job(url: str, job: str) -> list[tuple[str, str, Any]]:
    """A job's record, log and clips as they are stored, readable or not.

    Raises JobError, which suggests another id, if there is no such job.
    """
    with suppress(UnreadableError):  # a record that cannot be read is worth a report
        StoredJobs(url).look_up(job)
    store = open_store(url, make=False, patience_s=PATIENCE_S)
    record = _read(store, job_key(job))
    logs = {key: _read(store, key) for key in store.list(events_prefix(job))}
    found = [("job.json", "the job's record", record), ("events.json", "its event log", logs)]
    try:
        known = parse_record(JobRecord, job_key(job), json.dumps(record).encode())
    except UnreadableError:
        return found
    keys = [result_key(clip.digest) for clip in known.request.clips()]
    clips = {key: _read(store, key) for key in keys if store.exists(key)}
    place = store.where(picture_key(known.request.picture))
    return [
        *found,
        ("clips.json", "the records of the job's clips", clips),
        ("reproduce.sh", "the command that renders them again", command_of(known, place)),
    ]


def _webhooks(about_job: Iterable[tuple[str, str, Any]]) -> list[str]:
    """The URL of the job's webhook, and its path, which is a secret of many services."""
    records = [each for name, _, each in about_job if name == "job.json" and isinstance(each, dict)]
    urls = [str(record["webhook_url"]) for record in records if record.get("webhook_url")]
    paths = [url.partition("://")[2].partition("/")[2] for url in urls]
    return [*urls, *(path for path in paths if len(path) >= PATH)]


def _read(store: Store, key: str) -> Any:
    """The JSON at a key, or its lines, or else its text."""
    stored = store.get(key)
    text = stored.data.decode(errors="backslashreplace") if stored else ""
    try:
        return json.loads(text)
    except ValueError:
        return [_json_or_text(line) for line in text.splitlines()]


def _json_or_text(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line


def _token_files() -> list[str]:
    """The tokens of Ray and of the hub that this user has saved."""
    found = []
    for name in TOKENS:
        try:
            found.append((Path.home() / name).read_text())
        except (OSError, ValueError, RuntimeError):
            continue
    return found
