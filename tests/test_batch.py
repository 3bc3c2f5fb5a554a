"""The main job on real Ray: the engine's frames whoever renders, deaths survived, work resumed."""

import asyncio
import hashlib
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from imageio_ffmpeg import count_frames_and_secs

from farm import batch
from farm.cluster import Cluster, describe_model
from farm.errors import RequestError, WorkerError
from farm.plan import Stage, plan
from farm.request import Model, RenderRequest, digest_of
from svd_engine import Engine, RenderParams
from tests.conftest import draw_picture
from tests.ray_cluster import local_cluster

SMALL = {"width": 64, "height": 48, "num_frames": 5, "num_inference_steps": 3}
OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with local_cluster(num_cpus=2):
        yield


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


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_frames_are_the_engine_frames_for_any_number_of_workers(
    workers: int,
    tiny: Path,
    pictures: Path,
    expected: dict[tuple[str, int], str],
    tmp_path: Path,
) -> None:
    arguments = ["--model", tiny, "--seeds", "0-1", "--decode-chunk-size", 2, *OPTIONS]
    assert run(pictures, "--out", tmp_path, "--workers", workers, *arguments) == 0
    assert {(row["name"], row["seed"]): row["sha256"] for row in rows(tmp_path)} == expected


def test_what_a_batch_writes(tiny: Path, pictures: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    arguments = ["--out", out, "--model", tiny, "--fps", 9, *OPTIONS]
    assert run(pictures / "*.png", *arguments) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "index.html",
        "summary.json",
        "wide-seed0.jpg",
        "wide-seed0.mp4",
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
    assert "1 of 1 clips are done" in printed.out
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
        (["--model", "nonsense"], "no model 'nonsense'"),
        (["--out", "ftp://somewhere"], "ftp://somewhere"),
        (["--sigmas", "1,2"], "--sigmas"),
        (["--nonsense"], "unrecognized arguments"),
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


def make_request(picture: bytes, facts: Any, **changes: object) -> RenderRequest:
    params = RenderParams(**{**SMALL, **changes}).resolve(facts.defaults)
    return RenderRequest(
        picture=digest_of(picture), weights=facts.digest, dtype="float32", params=params
    )


@pytest.mark.parametrize(
    ("victim", "workers", "at"),
    [
        ("renderer", 1, (Stage.DENOISE, 1)),
        ("renderer", 2, (Stage.DENOISE, 3)),  # after the last step, before the latents are out
        ("decoder", 2, (Stage.DECODE, 1)),
    ],
)
def test_workers_killed_at_work_cost_an_attempt_and_no_pixel(
    victim: str,
    workers: int,
    at: tuple[Stage, int],
    tiny: Path,
    pictures: Path,
    expected: dict[tuple[str, int], str],
) -> None:
    """All workers of a kind at once, so that the next attempt waits for one that Ray restarts."""
    picture = (pictures / "wide.png").read_bytes()
    killed: list[int] = []

    async def go() -> str:
        model = Model(name=str(tiny))
        facts = await describe_model(model)
        request = make_request(picture, facts, decode_chunk_size=2)
        async with Cluster(model, workers) as cluster:
            pool = cluster.renderers if victim == "renderer" else cluster.decoders
            while len(pool.places) < workers:  # until all have answered
                await asyncio.sleep(0.1)
            pids = [int(place.rpartition(":")[2]) for place in pool.places.values()]

            def kill_once(stage: Stage, done: int, total: int) -> None:
                if not killed and (stage, done) == at:
                    killed.extend(pids)
                    for pid in killed:
                        os.kill(pid, signal.SIGKILL)

            rendered = await cluster.render(request, plan(request), picture, kill_once)
            return rendered.sha256

    assert asyncio.run(go()) == expected["wide", 0]
    assert len(killed) == workers


def test_a_model_that_cannot_be_loaded_ends_the_work(tiny: Path, tmp_path: Path) -> None:
    async def describe(name: str) -> None:
        await describe_model(Model(name=name))

    with pytest.raises(RequestError, match="not an SVD checkpoint"):
        asyncio.run(describe(str(tmp_path)))

    async def render() -> None:
        facts = await describe_model(Model(name=str(tiny)))
        request = make_request(b"", facts)
        async with Cluster(Model(name=str(tmp_path))) as cluster:
            await cluster.render(request, plan(request), b"", lambda *_: None)

    with pytest.raises(WorkerError, match=r"no worker is left.*not an SVD checkpoint"):
        asyncio.run(render())
