"""A folder of odd files: each gets a clip or its own error, and none stops the others."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from farm.batch.inputs import find_pictures, read
from farm.batch.listing import list_source
from farm.batch.source import Source
from farm.client.farm import Farm
from farm.model.job import JobRecord, Submission
from svd_engine.picture_files import open_picture
from tests.odd_files import DONE, FILES, LEFT_OUT, ROWS, run_batch, write_odd_files
from tests.support.asgi import StillFarm, client, still_app
from tests.support.inline_batch import inline_batch, run
from tests.support.inline_farm import inline  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home") / "odd"
    write_odd_files(folder)
    return folder


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, inline: Any) -> Iterator[Farm]:  # noqa: F811
    with inline_batch(tmp_path_factory.mktemp("store")) as farm:
        yield farm


def expected(name: str) -> str:
    return FILES[name][1] if name in FILES else ROWS.get(name, LEFT_OUT)


def test_there_are_forty() -> None:
    assert len(FILES) == 40


def test_each_is_found_and_opened_or_says_why(folder: Path) -> None:
    left_out = {Path(source.path).name for source, _ in list_source(Source(str(folder))).left_out}
    assert left_out == {name for name in FILES if expected(name) == LEFT_OUT} | {"@eaDir", "deeper"}
    found = find_pictures([str(folder)]).pictures
    assert {Path(picture.origin.path).name for picture in found} == set(FILES) - left_out
    for picture in found:
        ended = DONE
        try:
            open_picture(read(picture))
        except ValueError as error:
            ended = str(error)
        assert expected(Path(picture.origin.path).name) in ended, picture.source


def test_a_dry_run_says_the_same(farm: Farm, folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert run(folder, folder / "rows.csv", "--out", out, "--dry-run") == 0
    captured = capsys.readouterr()
    assert (
        f"{folder}: 9 files left out: 4 hidden, 4 not a picture, 1 a manifest; "
        "1 folder not searched (--dry-run names them)\n"
    ) in captured.err
    lines = captured.out.splitlines()
    failing = [line for line in lines if "would fail: " in line]
    why = [ended for _, ended in FILES.values() if ended not in (DONE, LEFT_OUT)]
    assert len(failing) == len(why) + 1
    assert any("rows.csv line 4: picture: there is none at" in line for line in failing)
    assert sum(line.startswith("left out of ") for line in lines) == 10
    assert f"{len(failing)} would fail; the time is unknown" in lines[-1]
    assert not (out / "summary.json").exists()


class Checking(StillFarm):
    async def check(self, submission: Submission, digest: str) -> tuple[JobRecord, int]:
        view = await self.find("acme")
        assert view is not None
        return view.job, 0


def test_the_front_door_takes_what_a_folder_takes(folder: Path) -> None:
    async def test() -> None:
        async with client(still_app(Checking())) as http:
            for name, (_, ended) in FILES.items():
                if ended in (LEFT_OUT, "broken"):  # pixels that are broken fail the job
                    continue
                file = {"input_reference": (name, (folder / name).read_bytes())}
                answer = await http.post("/v1/videos/check", files=file)
                assert answer.status_code == (200 if ended == DONE else 400), (name, answer.text)

    asyncio.run(test())


@pytest.mark.ray
@pytest.mark.slow
def test_each_ends_in_its_own_row(folder: Path) -> None:
    ended = run_batch(folder)
    assert {name: expected(name) in end for name, end in ended.items()} == dict.fromkeys(
        ended, True
    )
    assert set(ended) == set(FILES) | set(ROWS) | {"@eaDir", "deeper"}
