"""Settings: their sources and precedence, `farm.toml`, `python -m farm config`, and faults."""

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from farm.__main__ import main
from farm.batch.__main__ import main as batch
from farm.errors import RequestError
from farm.settings import handed_on, load_settings
from tests.support.programs import exit_status

SECRET = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="
DIGEST = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without settings."""
    for name in [name for name in os.environ if name.upper().startswith("FARM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["config", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_flag_comes_before_the_environment_before_the_file_before_the_default(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def store() -> tuple[str, str]:
        found = config(capsys)["settings"]["store"]
        return found["value"], found["origin"]

    assert store() == (f"file://{place}/data/svd-farm", "default")
    Path("farm.toml").write_text('store = "in-file"\n')
    assert store() == (f"file://{place}/in-file", "file")
    monkeypatch.setenv("FARM_STORE", "in-environment")
    assert store() == (f"file://{place}/in-environment", "environment")
    found = config(capsys, "--store", "s3://bucket/flag")
    assert found["settings"]["store"] == {"value": "s3://bucket/flag", "origin": "flag"}
    assert found["file"] == str(place / "farm.toml")


def test_tables_are_not_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that the environment no longer has may not come back from the file."""
    Path("farm.toml").write_text(f'[keys.{DIGEST}]\ntenant = "in-file"\n[max_gpus]\na = 1\n')
    assert [*load_settings().keys] == [DIGEST]
    other = DIGEST[::-1]
    monkeypatch.setenv("FARM_KEYS", json.dumps({other: {"tenant": "in-environment"}}))
    monkeypatch.setenv("FARM_MAX_GPUS", '{"b": 2}')
    assert [*load_settings().keys] == [other]
    assert load_settings().max_gpus == {"b": 2}


def test_farm_config_names_a_file_elsewhere_whose_paths_begin_there(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place / "etc"
    folder.mkdir()
    (folder / "any.toml").write_text('store = "jobs"\nkeys_file = "keys.json"\n')
    Path("farm.toml").write_text("workers = 3\n")
    monkeypatch.setenv("FARM_CONFIG", "etc/any.toml")
    settings = load_settings()
    assert settings.store == f"file://{folder}/jobs"
    assert settings.keys_file == folder / "keys.json"
    assert settings.workers is None  # farm.toml is not read beside it
    monkeypatch.setenv("FARM_CONFIG", "")
    monkeypatch.setenv("FARM_KEYS_FILE", "keys.json")
    assert load_settings().workers == 3
    assert load_settings().keys_file == place / "keys.json"


BAD = {
    "workers = 0": "workers: Input should be greater than or equal to 1, got 0",
    "workers = true": "workers: it is not true or false, got true",
    "compile = 'often'": "compile: Input should be a valid boolean",
    'models = "nano"': "models: Input should be a list, got 'nano'",
    "max_gpus = {acme = 'x'}": "max_gpus['acme']: Input should be a valid integer",
    'stroe = "x"': "Unknown setting 'stroe'. Did you mean 'store'?",
    'FARM_STORE = "x"': "Unknown setting 'FARM_STORE'. Did you mean 'store'?",
    "[farm]\nworkers = 1": "Unknown setting 'farm'",
    "workers =": "is not TOML: Invalid value (at line 1, column 10)",
    "workers = 1\nworkers = 2": "is not TOML: Cannot overwrite a value (at line 2",
    "keys = {abc = {tenant = 'x'}}": "keys['abc']: String should match pattern",
    f"webhook_secret = '{SECRET[:20]}'": "webhook_secret: Value error, give whsec_ and the base64",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_file_is_refused_by_every_command(
    text: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("farm.toml").write_text(f"{text}\n")
    (place / "a.png").write_bytes(b"")
    commands = [main, ["config"]], [main, ["status"]], [batch, ["a.png", "--out", "out"]]
    for program, arguments in commands:
        assert exit_status(program, arguments) == 2  # type: ignore[arg-type]
        errors = capsys.readouterr().err
        assert f"the settings' file {place}/farm.toml" in errors
        assert BAD[text] in errors
        assert errors.count("\n") == 1
        assert SECRET[:20] not in errors
    assert not (place / "out").exists()


def test_serve_refuses_a_bad_file() -> None:
    from farm.ingress.serve_app import app

    Path("farm.toml").write_text("workers = 0\n")
    with pytest.raises(RequestError, match=r"farm\.toml: workers: Input should be greater"):
        app({})


@pytest.mark.parametrize("kind", ["missing", "a folder", "not text"])
def test_a_file_that_cannot_be_read(
    kind: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARM_CONFIG", "named.toml")
    if kind == "a folder":
        Path("named.toml").mkdir()
    elif kind == "not text":
        Path("named.toml").write_bytes(b'store = "\xff"')
    with pytest.raises(RequestError, match=f"the settings' file {place}/named.toml"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("FARM_STROE", "x", "Unknown setting 'FARM_STROE'. Did you mean 'FARM_STORE'?"),
        ("FARM_WEBHOOK_SECERT", SECRET, "Did you mean 'FARM_WEBHOOK_SECRET'?"),
        ("FARM_MODELS", "nano", 'FARM_MODELS: give JSON, like ["a", "b"], got \'nano\''),
        ("FARM_MAX_GPUS", "4", "FARM_MAX_GPUS: Input should be a valid dictionary, got 4"),
        ("FARM_WORKERS", "many", "FARM_WORKERS: Input should be a valid integer"),
        ("FARM_S3_PUBLIC_ENDPOINT", "ftp://me:pass@h", "got 'ftp://***@h'"),
    ],
)
def test_a_bad_variable_is_refused(
    name: str,
    text: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, text)
    assert main(["config"]) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert SECRET not in errors


def test_variables_that_are_not_the_farms_settings_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in {
        "FARM_URL": "http://host:8000",
        "FARM_API_KEY": "key",
        "FARM_CONFIG": "",
        # Kubernetes sets these for Services called `farm` and `farm-svd`.
        "FARM_SERVICE_HOST": "10.0.0.1",
        "FARM_SERVICE_PORT": "8000",
        "FARM_SERVICE_PORT_HTTP": "8000",
        "FARM_PORT": "tcp://10.0.0.1:8000",
        "FARM_PORT_8000_TCP_ADDR": "10.0.0.1",
        "FARM_SVD_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    }.items():
        monkeypatch.setenv(name, text)
    assert not load_settings().model_fields_set


def test_what_is_shown_is_a_file_with_the_same_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = 'pi\u7684ct "ures\\'
    values: dict[str, Any] = {"models": ["tiny", odd], "max_gpus": {"acme": 4}, "compile": True}
    values |= {"store": f"s3://bucket/{odd}", "stall_s": 2.5, "picture_hosts": ["*.example.com"]}
    settings = load_settings(**values)
    for name, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        monkeypatch.setenv(f"FARM_{name.upper()}", text)
    assert main(["config"]) == 0
    shown = capsys.readouterr().out
    for name in values:
        monkeypatch.delenv(f"FARM_{name.upper()}")
    assert load_settings() != settings
    Path("farm.toml").write_text(shown)
    assert load_settings() == settings


def test_secrets_are_masked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("farm.toml").write_text(
        f'webhook_secret = "{SECRET}"\ns3_public_endpoint = "https://me:p@ss@s3.example"\n'
        f'cors_origins = ["https://you:word@example.com"]\n[keys.{DIGEST}]\ntenant = "acme"\n'
    )
    monkeypatch.setenv("FARM_URL", "http://us:there@host:8000")
    monkeypatch.setenv("FARM_API_KEY", "open sesame")
    outputs = []
    for arguments in (["config"], ["config", "--json"]):
        assert main(arguments) == 0
        outputs.append(capsys.readouterr().out)
    for shown in outputs:
        for secret in (SECRET, "p@ss", "word@", "there@", "sesame", DIGEST[:9]):
            assert secret not in shown
        assert "https://***@s3.example" in shown
        assert f"{DIGEST[:8]}..." in shown
    assert tomllib.loads(outputs[0])["webhook_secret"] == "***"


def test_what_is_handed_on_leaves_defaults_to_the_other_process(
    monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    Path("farm.toml").write_text(f"workers = 3\nstore = 'jobs'\nwebhook_secret = '{SECRET}'\n")
    given = handed_on(load_settings(segment_steps=2))
    assert set(given) == {"workers", "store", "webhook_secret", "segment_steps"}
    Path("farm.toml").unlink()
    monkeypatch.setenv("FARM_MAX_JOBS", "7")  # the other process's own
    monkeypatch.setenv("FARM_WORKERS", "9")
    there = load_settings(**given)
    assert (there.workers, there.max_jobs, there.store) == (3, 7, f"file://{place}/jobs")
    assert there.webhook_secret is not None
    assert there.webhook_secret.get_secret_value() == SECRET
