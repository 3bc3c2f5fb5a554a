"""The farm's pure parts: requests, plans, pool sizes, stores."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from farm.errors import StoreError
from farm.plan import Stage, plan
from farm.request import RenderRequest, digest_of
from farm.scheduler import size_pools
from farm.store import open_store
from farm.store.local import LocalStore
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
