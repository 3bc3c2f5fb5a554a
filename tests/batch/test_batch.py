"""`python -m farm.batch` on real Ray: correct frames, resumed work, and prompt error messages."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from imageio_ffmpeg import count_frames_and_secs

from farm.batch import __main__ as batch
from svd_engine import Engine, RenderParams
from tests.conftest import draw_picture

SMALL = {"width": 64, "height": 48, "num_frames": 5, "num_inference_steps": 3}
OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Iterator[Path]:
    store = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARM_STORE", str(store))
        yield store


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    draw_picture(90, 60, seed=1).save(folder / "wide.png")
    draw_picture(50, 70, seed=2).save(folder / "tall.jpg")
    return folder


@pytest.fixture(scope="module")
def expected(tiny: Path, pictures: Path) -> dict[tuple[str, int], str]:
    """What `engine.render` makes of them, chunk by chunk of two frames."""
    engine = Engine.from_pretrained(tiny)
    return {
        (path.stem, seed): hashlib.sha256(
            engine.render(path, RenderParams(seed=seed, decode_chunk_size=2, **SMALL)).frames
        ).hexdigest()
        for path in pictures.iterdir()
        for seed in (0, 1)
    }


def run(*arguments: object) -> int:
    return batch.main([str(argument) for argument in arguments])


def rows(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "summary.json").read_text())["clips"]


def test_frames_are_the_engine_frames(
    tiny: Path, pictures: Path, expected: dict[tuple[str, int], str], tmp_path: Path
) -> None:
    arguments = ["--model", tiny, "--seeds", "0-1", "--decode-chunk-size", 2, *OPTIONS]
    assert run(pictures, "--out", tmp_path, *arguments) == 0
    assert {(row["name"], row["seed"]): row["sha256"] for row in rows(tmp_path)} == expected


def test_what_a_batch_writes(tiny: Path, pictures: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    arguments = ["--out", out, "--model", tiny, "--fps", 9, *OPTIONS]
    assert run(pictures / "*.png", *arguments) == 0
    assert sorted(path.name for path in out.glob("[!.]*")) == [
        "index.html",
        "summary.json",
        "wide-seed0.jpg",
        "wide-seed0.mp4",
        "wide.source.jpg",
    ]
    frames, seconds = count_frames_and_secs(str(out / "wide-seed0.mp4"))
    assert (frames, seconds) == (5, pytest.approx(5 / 9, abs=0.02))
    (row,) = rows(out)
    assert set(row) >= {
        *("name", "picture", "seed", "status", "sha256"),
        *("parameters", "seconds", "worker", "error"),
    }
    assert (row["name"], row["seed"], row["status"]) == ("wide", 0, "done")
    assert row["parameters"]["fps"] == 9
    assert row["parameters"]["width"] == 64
    assert set(row["seconds"]) == {"encode", "denoise", "decode", "mux"}
    assert all(seconds > 0 for seconds in row["seconds"].values())
    assert row["worker"].startswith("renderer-0@")
    assert "wide-seed0.mp4" in (out / "index.html").read_text()
    printed = capsys.readouterr()
    assert "1 of 1 clip is done" in printed.out
    assert "[1/1] wide-seed0: done in" in printed.err


def test_a_broken_picture_fails_its_own_row(
    tiny: Path, pictures: Path, tmp_path: Path, capsys: Any
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes((pictures / "wide.png").read_bytes()[:300])
    out = tmp_path / "out"
    assert run(bad, pictures / "wide.png", "--out", out, "--model", tiny, *OPTIONS) == 1
    by_name = {row["name"]: row for row in rows(out)}
    assert by_name["bad"]["status"] == "failed"
    assert "broken" in by_name["bad"]["error"]
    assert by_name["wide"]["status"] == "done"
    assert "broken" in (out / "index.html").read_text()
    assert "Traceback" not in capsys.readouterr().err


def test_run_again_renders_what_is_missing_or_changed(
    tiny: Path, pictures: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for path in pictures.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    arguments = ["--out", out, "--model", tiny, *OPTIONS]

    def written() -> dict[str, int]:
        return {p.name: p.stat().st_mtime_ns for p in out.glob("*.mp4")}

    assert run(folder, *arguments) == 0
    first = written()
    assert run(folder, *arguments) == 0
    assert written() == first

    (out / "tall-seed0.mp4").unlink()
    draw_picture(90, 60, seed=5).save(folder / "wide.png")
    draw_picture(60, 60, seed=6).save(folder / "new.png")
    assert run(folder, *arguments) == 0
    second = written()
    assert set(second) == {"tall-seed0.mp4", "wide-seed0.mp4", "new-seed0.mp4"}
    assert all(second[name] != first[name] for name in first)

    assert run(folder, *arguments, "--seeds", "0-1") == 0
    third = written()
    assert len(third) == 6
    assert all(third[name] == second[name] for name in second)
    assert len(rows(out)) == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num-frames", "0"], "--num-frames.*greater than or equal to 1"),
        (["--width", "100"], "--width.*multiple of 8"),
        (["--seeds", "3-1"], "--seeds"),
        (["--workers", "0"], "--workers"),
        (["--priority", "101"], "--priority.*less than or equal to 100"),
        (["--store", "s3://"], "s3://"),
        (["--fps", "7,0"], "--fps.*greater than or equal to 1"),
        (["--model", "nonsense"], "No model 'nonsense'"),
        (["--out", "ftp://somewhere"], "ftp://somewhere"),
        (["--sigmas", "1,2"], "--sigmas"),
        (["--nonsense"], "Unknown option '--nonsense'"),
    ],
)
def test_wrong_usage_is_2_and_says_why(
    arguments: list[str], words: str, pictures: Path, tmp_path: Path, capsys: Any
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(pictures, "--out", tmp_path, *arguments)
    assert caught.value.code == 2
    assert re.search(words, capsys.readouterr().err)


def test_no_pictures_and_no_place_are_wrong_usage(pictures: Path, tmp_path: Path) -> None:
    for arguments in ((tmp_path, "--out", tmp_path / "out"), (pictures, "--out", pictures)):
        with pytest.raises(SystemExit) as caught:
            run(*arguments)
        assert caught.value.code == 2


def test_a_sweep_and_a_manifest(tiny: Path, pictures: Path, tmp_path: Path, capsys: Any) -> None:
    table = tmp_path / "rows.csv"
    table.write_text(f"picture,name,fps\n{pictures / 'wide.png'},slow,3\n")
    out = tmp_path / "out"
    arguments = [table, "--out", out, "--model", tiny, *OPTIONS, "--motion-bucket-id", "40,200"]
    assert run(*arguments, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "2 clips, 0 done; 2 to render, 6 UNet steps" in printed
    assert not (out / "summary.json").exists()
    assert run(*arguments) == 0
    assert {row["parameters"]["motion_bucket_id"] for row in rows(out)} == {40, 200}
    assert {row["parameters"]["fps"] for row in rows(out)} == {3}
    assert len({row["sha256"] for row in rows(out)}) == 2
    assert len(list(out.glob("slow-*.mp4"))) == 2
    assert run(*arguments, "--dry-run") == 0
    assert "2 done; 0 to render, 0 UNet steps" in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_stops_and_run_again_it_goes_on(tiny: Path, pictures: Path, tmp_path: Path) -> None:
    """In a process of its own, with a cluster of its own, which ends with it."""
    out = tmp_path / "out"
    arguments = [pictures, "--out", out, "--store", tmp_path / "store", "--model", tiny, *OPTIONS]
    command = [sys.executable, "-m", "farm.batch", *map(str, arguments), "--steps", "40"]
    environment = os.environ | {"RAY_ADDRESS": "local"}
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    for _ in range(600):
        if list(tmp_path.glob("store/checkpoints/*/*")):
            break
        time.sleep(0.1)
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "stopped: the farm was this program's own; run it again" in errors
    again = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert again.returncode == 0, again.stderr
    assert "2 of 2 clips are done" in again.stdout
    sums = json.loads((out / "summary.json").read_text())["clips"]
    params = RenderParams(**{**SMALL, "num_inference_steps": 40})
    engine = Engine.from_pretrained(tiny)
    for row in sums:
        frames = engine.render(row["picture"], params).frames
        assert row["sha256"] == hashlib.sha256(frames).hexdigest()
