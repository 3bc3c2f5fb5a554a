"""Exit statuses of all commands: 0 done, 1 failed, 2 wrong usage or input; errors are one line."""

import json
import re
import struct
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from farm import __main__ as operator
from farm.batch import __main__ as batch
from farm.bench import __main__ as bench
from farm.simulate import __main__ as simulate
from svd_engine.__main__ import main
from svd_engine.conformance.traces import FORMAT, TraceError, open_trace
from tests.support.programs import exit_status

PICTURE = str(Path(__file__).parent.parent / "examples/pictures/cat.webp")
Main = Callable[[Sequence[str]], int]


def missing(place: Path) -> Path:
    return place / "missing"


def empty(place: Path) -> Path:
    (place / "empty").write_bytes(b"")
    return place / "empty"


def noise(place: Path) -> Path:
    (place / "noise").write_bytes(bytes(range(256)) * 4)
    return place / "noise"


def folder(place: Path) -> Path:
    (place / "folder").mkdir()
    return place / "folder"


def noise_of_tensors(place: Path) -> Path:
    """A folder of tensors, one of which is not a tensor."""
    (place / "theirs").mkdir()
    (place / "theirs/time_ids.npy").write_bytes(b"noise")
    return place / "theirs"


def a_file_below_a_file(place: Path) -> Path:
    return noise(place) / "below"


def long(place: Path) -> Path:
    return place / ("x" * 5000)


BAD = [missing, empty, noise, folder, a_file_below_a_file, long]


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What standard error says, which must be one line, and perhaps the hint where to look."""
    errors = capsys.readouterr().err
    error, _, hint = errors.partition("\n")
    assert not hint or re.fullmatch(r"Try 'python -m [\w. ]+ --help'\.\n", hint), errors
    assert "Traceback" not in errors
    return f"{error}\n"


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    "command",
    [
        ["render", "BAD", "--out", "OUT/x.mp4"],
        ["render", PICTURE, "--out", "OUT/x.mp4", "--model", "BAD"],
        ["trace", "BAD", "--out", "OUT/x.safetensors"],
        ["trace", PICTURE, "--out", "OUT/x.safetensors", "--model", "BAD"],
        ["compare", "BAD", "BAD"],
        ["diagnose", "BAD", "--picture", PICTURE],
        ["diagnose", "OUT/theirs.safetensors", "--picture", "BAD"],
        ["diagnose", "OUT/theirs.safetensors", "--picture", PICTURE, "--model", "BAD"],
    ],
)
def test_what_cannot_be_read_is_2(
    command: list[str],
    bad: Callable[[Path], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_file({"sigmas": np.ones(3, np.float32)}, tmp_path / "theirs.safetensors")
    path = bad(tmp_path)
    given = [
        str(path) if word == "BAD" else word.replace("OUT", str(tmp_path), 1) for word in command
    ]
    assert exit_status(main, given) == 2
    assert path.name[:100] in error_line(capsys)


@pytest.mark.parametrize("bad", [missing, folder, a_file_below_a_file, long])
def test_what_a_batch_cannot_read_is_2(
    bad: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(bad(tmp_path))
    assert exit_status(batch.main, [path, "--out", str(tmp_path / "out")]) == 2
    assert path[:100] in error_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["compare", "diagnose"])
def test_a_tensor_that_cannot_be_read_is_2(
    command: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = str(noise_of_tensors(tmp_path))
    small = ["--steps", "2", "--width", "64", "--height", "48", "--num-frames", "2"]
    rest = ["--picture", PICTURE, "--model", str(tiny), *small]
    rest = [theirs] if command == "compare" else rest
    assert exit_status(main, [command, theirs, *rest]) == 2
    assert "time_ids.npy cannot be read as an array" in error_line(capsys)


@pytest.mark.parametrize("command", ["tiny", "bench", "render"])
def test_what_cannot_be_written_to_or_is_not_known(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, words = {
        "tiny": (["tiny", str(noise(tmp_path))], "noise is a file; give a new or an empty folder"),
        "bench": (["bench", "--preset", "svdxt"], "Unknown preset 'svdxt'. Did you mean 'svd-xt'?"),
        "render": (["render", PICTURE, "--out", "x.avi"], "--out: cannot write '.avi'"),
    }[command]
    assert exit_status(main, given) == 2
    assert words in error_line(capsys)


def test_what_departs_is_1_and_what_is_alike_0(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        tensors = {"sigmas": np.full(3, value, np.float32)}
        save_file(tensors, tmp_path / f"{name}.safetensors")
    a, b = str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")
    assert main(["compare", a, a]) == 0
    assert main(["compare", a, b]) == 1


NEAR = [
    (main, ["rendr", PICTURE], "Unknown command 'rendr'. Did you mean 'render'?"),
    (main, ["render", PICTURE, "--ot", "x.mp4"], "Unknown option '--ot'. Did you mean '--out'?"),
    (main, ["render", PICTURE, "--out", "x.mp4", "--modl", "nano"], "Did you mean '--model'?"),
    (main, ["render", PICTURE, "--out", "x.mp4", "--modl=nano"], "Did you mean '--model'?"),
    (main, ["render", PICTURE, "--out", "x.mp4", "--fit", "crp"], "Did you mean 'crop'?"),
    (main, ["render", PICTURE, "--out", "x.mp4", "--device", "cdua"], "Did you mean 'cuda'?"),
    (main, ["render", PICTURE, "--out", "x.mp4", "--model", "svdxt"], "Did you mean 'svd-xt'?"),
    (main, ["render", PICTURE, "--out", "x.mp4", "--dtype", "fp16"], "Unknown choice 'fp16'"),
    (main, ["render", PICTURE, "more", "--out", "x.mp4"], "Unexpected argument 'more'"),
    (main, ["compare", "a"], "required: B"),
    (main, [], "required: COMMAND"),
    (operator.main, ["stats"], "Unknown command 'stats'. Did you mean 'status'?"),
    (operator.main, ["--stor", "--sore", "x"], "Unknown option '--sore'. Did you mean '--store'?"),
    (
        operator.main,
        ["jobs", "--al", "--limt", "3"],
        "Unknown option '--limt'. Did you mean '--limit'?",
    ),
    (operator.main, ["priority", "job-1", "high"], "invalid int value: 'high'"),
    (operator.main, ["--store", "ftp://x", "jobs"], "no store for 'ftp://x'"),
    (batch.main, [PICTURE, "--out", "o", "--sedes", "3"], "Did you mean '--seeds'?"),
    (batch.main, [PICTURE, "--out", "o", "--fit", "crp"], "Did you mean 'crop'?"),
    (batch.main, [PICTURE, "--out", "o", "--seeds", "x"], "--seeds: 'x' is neither"),
    (batch.main, [PICTURE, "--out", "o", "--workers", "0"], "a whole number from 1"),
    (batch.main, [PICTURE, "--out", "ftp://o"], "no store for 'ftp://o'"),
    (bench.main, ["schedler"], "Unknown part 'schedler'. Did you mean 'scheduler'?"),
    (bench.main, ["scheduler", "--workers", "x"], "a whole number from 1"),
    (bench.main, ["scheduler", "--workers", "1,0"], "a whole number from 1"),
    (bench.main, ["submits", "--store", "ftp://x"], "no store for 'ftp://x'"),
    (simulate.main, ["--gps", "3"], "Unknown option '--gps'. Did you mean '--gpus'?"),
    (simulate.main, ["--gpus", "0"], "a whole number from 1"),
    (simulate.main, ["--out", "/no/such/x.png"], "there is no folder /no/such"),
]


@pytest.mark.parametrize(("program", "given", "words"), NEAR)
def test_wrong_usage_is_2_and_names_the_nearest(
    program: Main,
    given: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_status(program, given) == 2
    assert words in error_line(capsys)
    assert [*tmp_path.iterdir()] == []


PROGRAMS = {
    main: "render",
    operator.main: "jobs",
    batch.main: "",
    bench.main: "",
    simulate.main: "",
}


@given(st.sampled_from([*PROGRAMS]), st.text(min_size=1, max_size=12))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_option_is_ever_a_traceback(
    capsys: pytest.CaptureFixture[str], program: Any, text: str
) -> None:
    command = PROGRAMS[program]
    assert exit_status(program, [*([command] if command else []), f"--z{text}"]) == 2
    error_line(capsys)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_tells_the_statuses(program: Main, capsys: pytest.CaptureFixture[str]) -> None:
    commands: dict[Main, list[str]] = {
        main: ["render", "trace", "tiny", "compare", "diagnose", "bench"],
        operator.main: ["status", "jobs", "show", "cancel", "logs"],
    }
    for command in ([], *([name] for name in commands.get(program, []))):
        assert exit_status(program, [*command, "--help"]) == 0
        assert "exit status: 0 " in " ".join(capsys.readouterr().out.split())


@given(st.data())
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_an_array_holds(tmp_path: Path, data: st.DataObject) -> None:
    """Wherever a tensor's file is damaged, reading it gives a tensor or a TraceError."""
    buffer = BytesIO()
    np.save(buffer, np.ones((2, 3), np.float32))
    whole = buffer.getvalue()
    start = data.draw(st.integers(0, len(whole)))
    bad = data.draw(
        st.binary(max_size=20) | st.sampled_from([b"PK\3\4", b"'shape': (9999999999,)"])
    )
    (tmp_path / "sigmas.npy").write_bytes(whole[:start] + bad + whole[start + len(bad) :])
    trace = open_trace(tmp_path)
    try:
        assert trace["sigmas"].numel() >= 0
    except TraceError as error:
        assert "sigmas.npy" in str(error)  # noqa: PT017


@given(
    st.dictionaries(
        st.sampled_from(["params", "dtype", "model", "seed"]),
        st.text(max_size=6) | st.sampled_from(["[1]", "3", '"x"', '"float16"', "{}"]),
    )
)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_a_header_tells(tmp_path: Path, header: dict[str, str]) -> None:
    path = tmp_path / "x.safetensors"
    head = {"__metadata__": {"format": FORMAT} | header}
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    try:
        about = open_trace(path).about
    except TraceError as error:
        assert str(path) in str(error)  # noqa: PT017
        return
    assert isinstance(about.get("params", {}), dict)
