"""`python -m farm doctor`: all checks on this machine, their limits, and its exit statuses."""

import json
import threading
from pathlib import Path

import pytest

from farm.__main__ import main
from farm.doctor import configuration
from farm.doctor.check import Check, Context, Findings, Status, failed, ok, warning
from farm.doctor.checks import CHECKS
from farm.doctor.examination import Result, examine, worst
from farm.settings import load_settings
from tests.support.doctoring import content, finding
from tests.support.programs import exit_status


def hangs(_context: Context) -> Findings:
    yield ok("It began.")
    threading.Event().wait(30)
    yield ok("It ended.")


def raises(_context: Context) -> Findings:
    yield ok("It began.")
    raise OSError("disk on fire at http://me:secret@host/")


def cannot_be_made(_context: Context) -> Findings:
    yield ok(Context(None).need_settings().store)


def comes_last(context: Context) -> Findings:
    yield ok(f"The store is {context.need_settings().store}.")


def test_a_check_that_hangs_or_raises_is_reported_and_stops_no_other() -> None:
    checks = [Check(hangs, 0.2), Check(raises), Check(cannot_be_made), Check(comes_last)]
    found = [*examine(Context(load_settings(store="/x")), checks)]
    assert [(name, each.status) for name, each in found] == [
        ("hangs", Status.OK),
        ("hangs", Status.FAILED),
        ("raises", Status.OK),
        ("raises", Status.FAILED),
        ("cannot be made", Status.UNKNOWN),
        ("comes last", Status.OK),
    ]
    assert found[1].finding.text == "The check did not end within 0.2 s."
    assert "OSError: disk on fire at http://***@host/" in found[3].finding.text
    assert found[5].finding.text == "The store is file:///x."


def test_the_worst_finding_decides() -> None:
    fine, bad, worse = ok("A."), warning("B.", "C."), failed("D.", "E.")
    for found, status in (
        ([fine], Status.OK),
        ([bad, fine], Status.WARNING),
        ([bad, worse], Status.FAILED),
        ([], Status.OK),
    ):
        assert worst(Result("x", each) for each in found) == status


def test_everything_on_this_machine(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(place)
    assert main(["doctor", "--json"]) in (0, 1)  # other tests may use the ports
    report = json.loads(capsys.readouterr().out)
    assert {each["check"] for each in report["checks"]} == {check.name for check in CHECKS}
    for each in report["checks"]:
        assert each["text"].endswith("."), each
        assert each["status"] == "ok" or each["advice"] or each["status"] == "not checked", each
        if each["check"] != "ports":
            assert each["status"] != "failed", each
    assert content(place) == before  # not even the folder of the store


def test_wrong_settings_fail_and_what_needs_them_is_not_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FARM_STROE", "x")
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    (settings_line,) = (line for line in lines if "settings  " in line)
    assert settings_line.startswith("failed")
    assert "Unknown setting 'FARM_STROE'. Did you mean 'FARM_STORE'?" in settings_line
    unchecked = [line.split()[2] for line in lines if line.startswith("not checked")]
    assert {"keys", "store", "signed", "clock", "models", "licences"} <= set(unchecked)


def test_wrong_usage_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(main, ["doctor", "--jsn"]) == 2
    assert "Did you mean '--json'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file or directory"),
        ("{}", "has no keys, so nobody"),
        ('{"abc": {"tenant": "a"}}', "abc String should match pattern"),
        ("{", "Invalid JSON"),
    ],
)
def test_keys(text: str | None, words: str) -> None:
    if text is not None:
        Path("keys.json").write_text(text)
    found = finding(configuration.keys, keys_file=Path("keys.json"))
    assert words in found.text
    assert found.status == (Status.OK if text == "{}" else Status.FAILED)
    key = {"0" * 64: {"tenant": "acme"}}
    assert finding(configuration.keys, keys=key).text == "1 keys may use the HTTP API."
    both = finding(configuration.keys, keys=key, keys_file=Path("keys.json"))
    assert both.status == Status.FAILED
