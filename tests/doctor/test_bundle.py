"""`python -m farm doctor --bundle`: what is in the archive, and that no secret ever is."""

import base64
import json
import os
import shlex
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from farm.__main__ import main
from farm.batch.inputs import find_pictures
from farm.batch.options import batch_parser
from farm.batch.sweep import parse_sweep
from farm.doctor import command
from farm.doctor.bundle import Part, parts_of
from farm.doctor.check import Check, Context, Findings, ok
from farm.doctor.examination import context_of
from farm.doctor.reproduction import PICTURE, command_of
from farm.model.job import JobRecord
from farm.model.request import Model, RenderRequest
from svd_engine.arguments import given_params
from svd_engine.params import RenderDefaults, RenderParams
from tests.old_stores import STORES
from tests.support.programs import exit_status
from tests.support.secret_forms import forms_of, traces_of

FILES = ["doctor.json", "versions.json", "settings.json", "environment.json"]
OF_A_JOB = ["job.json", "events.json", "clips.json", "reproduce.sh"]


@pytest.fixture
def store(place: Path) -> Path:
    """A farm's store, with three jobs."""
    with tarfile.open(max(STORES.glob("*.tar.gz"))) as archive:
        archive.extractall(place, filter="data")
    return place / "store"


@pytest.fixture(autouse=True)
def few_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """All checks take seconds; tests/doctor/test_doctor.py runs them."""

    def fine(_context: Context) -> Findings:
        yield ok("All is well.")

    monkeypatch.setattr(command, "CHECKS", (Check(fine),))


def finished_job(store: Path) -> str:
    jobs = {path.stem: json.loads(path.read_text()) for path in (store / "jobs").iterdir()}
    return next(name for name, job in jobs.items() if job["state"] == "completed")


def read(archive: Path) -> dict[str, str]:
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name).decode() for name in opened.namelist()}


def test_what_is_in_it(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = finished_job(store)
    asked = ["doctor", "--store", str(store), "--bundle", "a.zip", "--job", job, "--yes"]
    assert main(asked) == 0
    found = read(Path("a.zip"))
    assert [*found] == [*FILES, *OF_A_JOB]
    for name in found:
        assert name.endswith(".sh") or json.loads(found[name])
    errors = capsys.readouterr().err
    assert [line.split()[0] for line in errors.splitlines() if line.startswith("  ")] == [*found]
    assert json.loads(found["doctor.json"])["status"] == "ok"
    assert json.loads(found["settings.json"])["settings"]["store"]["origin"] == "flag"
    record = json.loads((store / f"jobs/{job}.json").read_text())
    assert json.loads(found["job.json"]) == record
    events = [entry for log in json.loads(found["events.json"]).values() for entry in log]
    assert events[0]["event"] == "submitted"
    clips = json.loads(found["clips.json"])
    assert len(clips) == record["request"]["num_videos"]
    assert record["request"]["picture"] in found["reproduce.sh"]
    assert main(["doctor", "--bundle", "b.zip", "--yes"]) == 0
    assert [*read(Path("b.zip"))] == FILES


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("n\n", 1), ("", 1)])
def test_it_asks_after_it_has_told(
    answer: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert main(["doctor", "--bundle", "a.zip"]) == status
    errors = capsys.readouterr().err
    assert errors.index("environment.json") < errors.index("Write it?")
    assert Path("a.zip").exists() == (status == 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bundle", "a.zip"], "give --yes"),
        (["--bundle", "there", "--yes"], "exists already"),
        (["--bundle", "gone/a.zip", "--yes"], "there is no folder"),
        (["--job", "job-1"], "go with --bundle"),
        (["--bundle", "a.zip", "--yes", "--job", "job-1"], "no farm keeps its jobs"),
    ],
)
def test_wrong_usage(
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", StringIO("y\n"))  # no terminal
    Path("there").write_bytes(b"")
    assert exit_status(main, ["doctor", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not Path("a.zip").exists()


def test_a_job_that_is_not_there_and_one_that_is_damaged(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = finished_job(store)
    asked = ["doctor", "--store", str(store), "--bundle", "a.zip", "--yes", "--job"]
    assert main([*asked, f"{job}x"]) == 1
    assert f"Did you mean '{job}'?" in capsys.readouterr().err
    (store / f"jobs/{job}.json").write_bytes(b'{"id": \xff')
    assert main([*asked, job]) == 0
    found = read(Path("a.zip"))
    assert json.loads(found["job.json"]) == ['{"id": \\xff']
    assert json.loads(found["events.json"])
    assert "reproduce.sh" not in found


def test_a_report_of_wrong_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_WORKERS", "many")
    main(["doctor", "--bundle", "a.zip", "--yes"])
    assert "FARM_WORKERS: " in json.loads(read(Path("a.zip"))["settings.json"])["fault"]


PARAMS: list[dict[str, Any]] = [
    {},
    {"seed": 2**63, "fps": 12, "fit": "crop", "noise_aug_strength": 0.25},
    {"sigmas": (14.5, 3.25, 0.0)},
    {"tier": "fast", "decode_chunk_size": 4},
    {"deviations": ("bgr", "karras_off"), "min_guidance_scale": 1.5},
]


@pytest.mark.parametrize("given", PARAMS)
@pytest.mark.parametrize("count", [1, 3])
def test_the_command_asks_for_the_same_clips(given: dict[str, Any], count: int) -> None:
    defaults = RenderDefaults(width=64, height=48, num_frames=5)
    if "deviations" in given:
        from svd_engine.deviation_catalogue import CATALOGUE

        given = given | {"deviations": tuple(sorted(CATALOGUE)[:2])}
    params = RenderParams(**given).resolve(defaults)
    request = RenderRequest(
        picture="0" * 64, weights="1" * 64, dtype="float16", params=params, num_videos=count
    )
    model = Model(name="/models/it's mine", variant="fp16", dtype="float16")
    job = JobRecord(id="job-1", model=model, request=request, created_at=0.0)
    script = command_of(job, "s3://bucket/pictures/0")
    (line,) = (each for each in script.splitlines() if not each.startswith("#"))
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "farm.batch"]
    options = batch_parser().parse_args(words[3:])
    assert (options.model, options.variant, options.dtype) == (model.name, "fp16", "float16")
    combinations = parse_sweep(given_params(options), options.seeds).combinations()
    asked = [RenderParams(**each).resolve(defaults) for each in combinations]
    assert asked == [clip.params for clip in request.clips()]
    Path(PICTURE).write_bytes((Path(__file__).parents[1] / "pictures/flower.jpg").read_bytes())
    assert [picture.error for picture in find_pictures(options.pictures).pictures] == [""]


# No control characters: an environment variable has no NUL, and TOML escapes the others.
CHARACTERS = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="*")
# What is around the drawn text is in no number or word that an archive has anyway.
SECRETS = st.text(CHARACTERS, min_size=5, max_size=30).map(lambda text: f"Qz{text}#J")
DIGESTS = st.text("0123456789abcdef", min_size=58, max_size=58).map(lambda text: f"facade{text}")


class Planted:
    """Secrets, one for each place, put into the environment, the settings, a job and its log."""

    def __init__(self, drawn: list[str], key: bytes, digests: list[str]) -> None:
        self.aws, self.hub, self.other, self.password, self.api, self.hook, self.url = drawn
        self.webhooks = f"whsec_{base64.b64encode(key).decode()}"
        self.signature, self.key, self.key_in_file = digests
        self.all = [*drawn, self.webhooks, self.signature, self.key[:9], self.key_in_file[:9]]
        self.all.append(self.webhooks.removeprefix("whsec_"))

    def variables(self) -> Iterator[tuple[str, str]]:
        yield "AWS_SECRET_ACCESS_KEY", self.aws
        yield "HF_TOKEN", self.hub
        yield "MY_DATABASE_PASSWORD", self.other
        yield "FARM_API_KEY", self.api
        yield "AWS_ENDPOINT_URL", f"https://me:{quote(self.password, safe='')}@s3.example"
        yield "FARM_KEYS", json.dumps({self.key: {"tenant": "acme"}})
        yield "FARM_CONFIG", "planted.toml"

    def file(self) -> str:
        url = f"https://us:{quote(self.url, safe='')}@s3.example"
        return f'webhook_secret = "{self.webhooks}"\ns3_public_endpoint = "{url}"\n'

    def record(self, record: dict[str, Any]) -> dict[str, Any]:
        hook = f"https://hooks.example/services/{quote(self.hook, safe='')}/abcdefgh"
        error = f"PUT https://s3.example/x?X-Amz-Expires=9&X-Amz-Signature={self.signature} {hook}"
        return record | {"webhook_url": hook, "error": error, "picture_name": f"{self.hub}.png"}

    def events(self) -> Iterator[dict[str, Any]]:
        for secret in (self.aws, self.hub, self.other, self.password, self.api, self.url):
            for form in forms_of(secret):
                yield {"why": f"it says {form}", form: [form]}
        yield {"why": f"signed with {self.webhooks}", "token": self.signature}
        yield {"why": f"the key is {self.webhooks.removeprefix('whsec_')}"}
        yield {"key": self.key, "header": f"Authorization: Bearer {self.signature}"}


PLANTED = st.builds(
    Planted,
    st.lists(SECRETS, min_size=7, max_size=7, unique=True),
    st.binary(min_size=24, max_size=64),
    st.lists(DIGESTS, min_size=3, max_size=3, unique=True),
)


@pytest.fixture(scope="module")
def planted_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    with tarfile.open(max(STORES.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder


@given(PLANTED)
@settings(max_examples=40, phases=[Phase.reuse, Phase.generate])  # to shrink takes minutes
def test_no_secret_is_in_it(planted_in: Path, planted: Planted) -> None:
    store = planted_in / "store"
    job = finished_job(store)
    log = next((store / "events" / job).iterdir())
    saved = {path: path.read_text() for path in (store / f"jobs/{job}.json", log)}
    try:
        parts = _archive(planted_in, planted, job, log)
    finally:
        for path, text in saved.items():
            path.write_text(text)
    assert [part.name for part in parts] == [*FILES, *OF_A_JOB]
    for part in parts:
        texts = part.text, *(_strings(json.loads(part.text)) if ".json" in part.name else ())
        for secret in planted.all:
            for trace in traces_of(secret):
                assert not [text for text in texts if trace in text], (part.name, secret, trace)


def _archive(folder: Path, planted: Planted, job: str, log: Path) -> list[Part]:
    record = folder / f"store/jobs/{job}.json"
    record.write_text(json.dumps(planted.record(json.loads(record.read_text()))))
    entries = [
        {"job": job, "seq": seq, "at": 0.0, "event": "retry", "data": data}
        for seq, data in enumerate(planted.events(), 1)
    ]
    log.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    (folder / "planted.toml").write_text(planted.file())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in [name for name in os.environ if name.startswith(("FARM_", "AWS_"))]:
            patch.delenv(name)
        for name, value in planted.variables():
            patch.setenv(name, value)
        context = context_of(str(folder / "store"))
        assert context.settings is not None, context.fault
        signed = f"https://h/x?X-Amz-Signature={planted.signature}&y"
        found: dict[str, object] = {
            "text": f"{planted.aws} at {signed}",
            "token": planted.signature,
        }
        return parts_of(context, found, job)


def _strings(value: Any) -> Iterator[str]:
    """All texts in JSON, names of fields included."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield key
            yield from _strings(below)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)
    else:
        yield str(value)
