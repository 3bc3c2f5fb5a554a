"""The farm's pure parts: requests, plans, pool sizes, stores, inputs, the summary and its page."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from farm.contact_sheet import contact_sheet
from farm.errors import RequestError, StoreError
from farm.inputs import find_pictures, name_pictures, parse_seeds
from farm.plan import Stage, plan
from farm.request import RenderRequest, digest_of
from farm.scheduler import size_pools
from farm.store import open_store
from farm.store.local import LocalStore
from farm.summary import Row, Summary
from svd_engine.params import RenderDefaults, RenderParams

DEFAULTS = RenderDefaults(width=64, height=48, num_frames=7)
A, B = digest_of(b"a"), digest_of(b"b")


def request(**changes: object) -> RenderRequest:
    params = RenderParams(**{k: v for k, v in changes.items() if k in RenderParams.model_fields})
    own = {k: v for k, v in changes.items() if k not in RenderParams.model_fields}
    return RenderRequest(
        **{"picture": A, "weights": B, "dtype": "float32", "params": params.resolve(DEFAULTS)} | own
    )


def test_digest_is_of_what_decides_the_pixels() -> None:
    base = request().digest
    assert base == request(width=64, height=48, num_frames=7).digest  # the defaults, spelled out
    others = [
        request(seed=1),
        request(fps=8),
        request(decode_chunk_size=7),
        request(fit="crop"),
        request(picture=B),
        request(weights=A),
        request(dtype="float16"),
        request(engine="0.0.1"),
    ]
    assert len({base, *(other.digest for other in others)}) == 9


def test_a_request_has_nothing_open() -> None:
    with pytest.raises(ValidationError, match="resolve"):
        RenderRequest(picture=A, weights=B, dtype="float32", params=RenderParams())
    with pytest.raises(ValidationError, match="picture"):
        request(picture="not a digest")


@given(frames=st.integers(1, 60), chunk=st.none() | st.integers(1, 70))
def test_plan_decodes_each_frame_once_after_what_it_needs(frames: int, chunk: int | None) -> None:
    tasks = plan(request(num_frames=frames, decode_chunk_size=chunk))
    done: set[str] = set()
    for task in tasks:
        assert set(task.needs) <= done
        done.add(task.key)
    assert len(done) == len(tasks)
    ranges = [task.frames for task in tasks if task.stage == Stage.DECODE]
    assert [f for start, stop in ranges for f in range(start, stop)] == list(range(frames))
    assert all(stop - start <= (chunk or frames) for start, stop in ranges)
    assert tasks[-1].needs == tuple(t.key for t in tasks if t.stage == Stage.DECODE)
    assert plan(request(num_frames=frames, decode_chunk_size=chunk)) == tasks


@given(
    gpus=st.integers(0, 100),
    cpus=st.integers(1, 200),
    nodes=st.integers(1, 20),
    workers=st.none() | st.integers(1, 40),
)
def test_pools_fit_what_is_there(gpus: int, cpus: int, nodes: int, workers: int | None) -> None:
    pools = size_pools(gpus, cpus, nodes, workers)
    assert pools.renderers >= 1
    assert pools.decoders >= 1
    used = pools.renderers * pools.renderer_gpus + pools.decoders * pools.decoder_gpus
    assert used <= gpus + 1e-9
    assert (pools.renderers + pools.decoders) * pools.cpus <= cpus
    if gpus:  # one worker per GPU, or as many as were asked for
        assert used == pytest.approx(min(gpus, workers or gpus))


def test_decoders_get_gpus_of_their_own_where_there_are_some_to_spare() -> None:
    assert size_pools(8, 64, 1).renderer_gpus < 1
    many = size_pools(18, 64, 2)
    assert (many.renderers, many.decoders, many.renderer_gpus) == (16, 2, 1.0)


@pytest.mark.parametrize("url", ["{}", "file://{}"])
def test_local_store(url: str, tmp_path: Path) -> None:
    store = open_store(url.format(tmp_path / "a store"))
    assert store.get("clips/a.bin") is None
    assert not store.exists("clips/a.bin")
    store.put("clips/a.bin", b"one")
    store.put("clips/a.bin", b"two")
    assert store.get("clips/a.bin") == b"two"
    assert store.exists("clips/a.bin")
    assert [p.name for p in (tmp_path / "a store/clips").iterdir()] == ["a.bin"]
    assert store.where("clips/a.bin") == str(tmp_path / "a store/clips/a.bin")


@pytest.mark.parametrize("key", ["../x", "/etc/x", "a/../../x", ""])
def test_store_refuses_keys_outside_itself(key: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a key"):
        LocalStore(tmp_path).put(key, b"")


def test_store_errors(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="ftp://host/x"):
        open_store("ftp://host/x")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot make the folder"):
        open_store(str(tmp_path / "file/below"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="cannot write"):
        LocalStore(tmp_path).put("folder", b"")


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0", [0]), ("0-3", [0, 1, 2, 3]), ("5,1-2, 2", [5, 1, 2]), ("7-7", [7])],
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1.5", "1-2-3", "0-99999999999"])
def test_bad_seeds(text: str) -> None:
    with pytest.raises(ValueError, match="--seeds"):
        parse_seeds(text)


def test_finding_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.JPG", "notes.txt", "sub/c.webp", "odd.name"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    monkeypatch.chdir(tmp_path)

    def found(*patterns: str) -> list[str]:
        return [str(path) for path in find_pictures(patterns)]

    assert found(".") == ["a.png", "b.JPG"]
    assert found("*.png", ".") == ["a.png", "b.JPG"]
    assert found("**/*.webp") == ["sub/c.webp"]
    assert found(str(tmp_path / "*.png")) == [str(tmp_path / "a.png")]
    assert found("odd.name") == ["odd.name"]  # named, so tried
    for nothing in ("*.tiff", "missing.png"):
        with pytest.raises(RequestError, match="no pictures at"):
            found(nothing)


def test_naming_pictures(tmp_path: Path) -> None:
    for name in ("x/cat.png", "y/cat.jpg", "z/cat.png", "z/dog.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name.replace("z/cat.png", "x/cat.png"))
    pictures = name_pictures(sorted(tmp_path.rglob("*.*")))
    assert (
        [p.name for p in pictures]
        == [
            f"cat-{digest_of(b'x/cat.png')[:8]}",  # and z/cat.png, which is the same
            f"cat-{digest_of(b'y/cat.jpg')[:8]}",
            "dog",
        ]
    )


def test_a_picture_that_cannot_be_read_keeps_its_row(tmp_path: Path) -> None:
    (picture,) = name_pictures([tmp_path / "gone.png"])
    assert (picture.name, picture.digest) == ("gone", "")
    assert "cannot read" in picture.error


def row(**changes: object) -> Row:
    base = {
        "name": "cat",
        "picture": "pictures/cat.png",
        "seed": 0,
        "status": "done",
        "parameters": RenderParams().resolve(DEFAULTS),
        "digest": A,
    }
    return Row(**base | changes)


def test_summary_knows_what_is_done(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    Summary(store).add(row())
    Summary(store).add(row(seed=1, status="failed", error="why"))
    summary = Summary(store)
    assert [(r.seed, r.status) for r in summary.rows] == [(0, "done"), (1, "failed")]
    assert not summary.is_done("cat", 0, A)  # its files are not there
    store.put("cat-seed0.mp4", b"")
    store.put("cat-seed0.jpg", b"")
    assert summary.is_done("cat", 0, A)
    assert not summary.is_done("cat", 0, B)
    assert not summary.is_done("cat", 1, A)
    assert json.loads(store.get("summary.json"))["clips"][1]["error"] == "why"


def test_summary_forgets_a_row_before_its_files_change(tmp_path: Path) -> None:
    summary = Summary(LocalStore(tmp_path))
    summary.add(row())
    summary.remove(row())
    assert Summary(LocalStore(tmp_path)).rows == []


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(b"x")
    (picture,) = name_pictures([path])
    assert picture.name == "caf\N{REPLACEMENT CHARACTER}"


def test_summary_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"clips": 3}')
    with pytest.raises(StoreError, match="not a batch's summary"):
        Summary(LocalStore(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_contact_sheet_escapes_and_quotes() -> None:
    page = contact_sheet(
        [row(name='<b>"x"&#'), row(seed=1, status="failed", error="<script>no</script>")]
    )
    assert "<b>" not in page
    assert "<script>" not in page
    assert 'src="%3Cb%3E%22x%22%26%23-seed0.mp4"' in page
    assert "1 clips, 1 failed" in page
