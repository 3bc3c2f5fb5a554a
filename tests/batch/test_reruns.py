"""Reruns of a batch: damaged files are fetched from the store again, and not rendered again."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from farm.batch import runner as batch_run
from farm.client.farm import Farm
from farm.model.request import RenderRequest
from farm.store import Store, open_store
from tests.conftest import draw_picture
from tests.support.inline_batch import inline_batch, run
from tests.support.inline_farm import QuickRenderer, inline  # noqa: F401 - a fixture
from tests.support.s3_server import S3Server, s3_environment, s3_server

FILES = ("a-seed0.mp4", "a-seed0.jpg", "b-seed0.mp4", "b-seed0.jpg", "summary.json", "index.html")


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, inline: Any) -> Iterator[Farm]:  # noqa: F811
    with inline_batch(tmp_path_factory.mktemp("store")) as farm:
        yield farm


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed, name in enumerate("ab"):
        draw_picture(40, 30, seed).save(folder / f"{name}.png")
    return folder


def contents(out: Store) -> dict[str, bytes]:
    found = {key: out.get(key) for key in FILES}
    return {key: stored.data for key, stored in found.items() if stored}


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The clips whose rendering has begun."""
    begun: list[str] = []
    encode = QuickRenderer.encode

    def note(self: QuickRenderer, request: RenderRequest, picture: bytes) -> Any:
        begun.append(request.digest)
        return encode(self, request, picture)

    monkeypatch.setattr(QuickRenderer, "encode", note)
    return begun


def damaged_out_is_made_whole(out: Store, pictures: Path, rendered: list[str], capsys: Any) -> None:
    arguments = [pictures, "--out", out.where(), "--seeds", "0", "--model", "tiny"]
    assert run(*arguments) == 0
    first = list(rendered)
    whole = contents(out)
    assert set(whole) == set(FILES)
    assert all(whole.values())
    clips = {key: data for key, data in whole.items() if key.endswith(("mp4", "jpg"))}
    for key, data in whole.items():
        for damaged in (b"", data[: len(data) // 2], None):
            if damaged is None:
                out.delete(key)
            else:
                out.put(key, damaged)
            capsys.readouterr()
            assert run(*arguments) == 0
            errors = capsys.readouterr().err
            assert (
                key == "index.html" or (key == "summary.json" and damaged is None) or key in errors
            )
            again = contents(out)
            assert {key: again[key] for key in clips} == clips
            page = again["index.html"].decode()
            assert page.endswith("</html>\n")
            assert all(f'src="{name}' in page for name in ("a-seed0.mp4", "b-seed0.mp4"))
            assert set(again) == set(FILES)
            assert len(json.loads(again["summary.json"])["clips"]) == 2
    changed = bytes(reversed(whole["a-seed0.jpg"]))  # of the same size: found by its digest
    out.put("a-seed0.jpg", changed)
    assert run(*arguments) == 0
    assert contents(out)["a-seed0.jpg"] == changed
    assert run(*arguments, "--verify") == 0
    assert "a-seed0.jpg is not what was written" in capsys.readouterr().err
    assert contents(out)["a-seed0.jpg"] == whole["a-seed0.jpg"]
    assert rendered == first


def test_damaged_files_of_a_folder(
    farm: Farm, pictures: Path, tmp_path: Path, rendered: list[str], capsys: Any
) -> None:
    damaged_out_is_made_whole(open_store(str(tmp_path / "out")), pictures, rendered, capsys)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3") / "server") as server, s3_environment(server):
        yield server


@pytest.mark.slow
def test_damaged_files_of_a_bucket(
    farm: Farm, pictures: Path, server: S3Server, rendered: list[str], capsys: Any
) -> None:
    damaged_out_is_made_whole(open_store(f"{server.url}/out"), pictures, rendered, capsys)


def test_nothing_is_submitted_where_all_is_there(
    farm: Farm, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [pictures, "--out", tmp_path / "out"]
    assert run(*arguments) == 0
    monkeypatch.setattr(batch_run.BatchRun, "_submit", None)
    assert run(*arguments) == 0
    assert run(*arguments, "--verify") == 0
