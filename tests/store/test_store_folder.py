"""The folder store: details beyond the contract, several processes, and file system errors."""

import errno
import os
import pickle
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.errors import StoreError
from farm.ingress.errors import api_error
from farm.store import open_store
from farm.store.local import LocalStore

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "url", ["{}/a store", "file://{}/a%20store", "file://localhost{}/a%20store", "file:{}/a store"]
)
def test_folder_urls(url: str, tmp_path: Path) -> None:
    store = open_store(url.format(tmp_path))
    store.put("clips/a.bin", b"")
    assert [p.name for p in (tmp_path / "a store/clips").iterdir()] == ["a.bin"]
    assert store.where() == str(tmp_path / "a store")
    assert store.where("clips/a.bin") == str(tmp_path / "a store/clips/a.bin")
    assert store.presign("clips/a.bin") is None


def test_folder_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot make the folder.*Not a directory"):
        open_store(str(tmp_path / "file/below"))
    store = LocalStore(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match=r"cannot write .*folder: Is a directory"):
        store.put("folder", b"")
    with pytest.raises(StoreError, match="File name too long"):
        store.put("x" * 300, b"")
    with pytest.raises(StoreError, match=r"cannot write .*file/x"):
        store.put("file/x", b"")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store.put("kept", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot write .*kept: No space left"):
        store.put("kept", b"new")
    assert (tmp_path / "kept").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "kept"]


@given(
    keys=st.sets(st.from_regex(r"[a!0é]{1,2}(/[a!0é]{1,2}){0,2}", fullmatch=True), max_size=12),
    prefix=st.from_regex(r"[a!0/]{0,3}", fullmatch=True),
    after=st.from_regex(r"[a!0/]{0,4}", fullmatch=True),
)
def test_folder_lists_in_byte_order(
    keys: set[str], prefix: str, after: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Where `a!` and `a/` are both there too: `!` comes before the slash."""
    keys = {key for key in keys if not any(other.startswith(f"{key}/") for other in keys)}
    store = LocalStore(tmp_path_factory.mktemp("list"))
    for key in keys:
        path = store.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    found = [key for key in sorted(keys) if key.startswith(prefix) and key > after]
    assert [*store.list(prefix, after)] == sorted(found, key=str.encode)


def test_folder_may_shrink_while_it_is_listed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for key in ("a/1", "a/2", "b/1", "c/1"):
        store.put(key, b"")
    (tmp_path / ".farm-left-by-a-crash").write_bytes(b"")
    (tmp_path / "broken").symlink_to("nowhere")
    keys = store.list("")
    assert next(keys) == "a/1"
    shutil.rmtree(tmp_path / "b")
    assert [*keys] == ["a/2", "c/1"]


def test_folder_is_shared_by_processes(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("count", b"0")
    code = (
        "from farm.store import open_store\n"
        "from tests.store.test_store import increment\n"
        f"for _ in range(25): increment(open_store({store.url!r}), 'count')"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "count").read_bytes() == b"100"


def test_plain_puts_wait_for_conditional_ones(tmp_path: Path) -> None:
    """Or a plain put, acknowledged between comparison and renaming, would be overwritten."""
    store = LocalStore(tmp_path)
    store.put("a", b"", if_none_match=True)
    with ThreadPoolExecutor(1) as threads:
        with store._locked():
            written = threads.submit(store.put, "a", b"new")
            time.sleep(0.1)
            assert (tmp_path / "a").read_bytes() == b""
        written.result()
    assert (tmp_path / "a").read_bytes() == b"new"


def test_check_finds_a_store_that_ignores_conditions(tmp_path: Path) -> None:
    class Careless(LocalStore):
        def put(self, key: str, data: bytes, **_: object) -> str:
            return super().put(key, data)

    with pytest.raises(StoreError, match="has no conditional writes: it ignores If-None-Match"):
        Careless(tmp_path).check()
    assert not [*tmp_path.iterdir()]


def test_a_folder_needs_no_boto3() -> None:
    code = "import sys, farm.store; farm.store.open_store('.'); print('boto3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "False", done.stderr


def test_scratch_files_of_killed_writers_are_swept(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("jobs/a.json", b"a", if_none_match=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", _killed)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            store.put("jobs/b.json", b"b")
    (scratch,) = [path for path in (tmp_path / "jobs").iterdir() if path.name.startswith(".")]
    assert store.sweep() == 0  # its writer may be at it
    os.utime(scratch, (0, 0))
    assert store.sweep() == 1
    assert sorted(path.name for path in tmp_path.rglob("*.json")) == ["a.json"]
    assert not scratch.exists()
    assert (tmp_path / ".farm-lock").exists()


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("key", ["a", "a/b/c"])
@pytest.mark.parametrize("conditions", [{}, {"if_none_match": True}])
def test_a_folder_that_vanishes_is_not_made_anew(
    key: str, conditions: dict[str, Any], tmp_path: Path
) -> None:
    store = LocalStore(tmp_path / "store")
    store.put("a/b/kept", b"1")
    store.folder.rename(tmp_path / "away")
    with pytest.raises(StoreError, match="No such file"):
        store.put(key, b"", **conditions)
    assert [path.name for path in tmp_path.iterdir()] == ["away"]
    (tmp_path / "away").rename(store.folder)
    assert store.get("a/b/kept")


def test_clients_are_told_of_a_store_without_its_places(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.folder.rmdir()
    with pytest.raises(StoreError) as caught:
        store.put("a/b", b"")
    passed_on = pickle.loads(pickle.dumps(caught.value))  # as Ray does
    assert str(tmp_path) in str(passed_on)
    shown = api_error(passed_on)
    assert (shown.status, shown.message) == (
        503,
        "the farm's store: No such file or directory; try again later",
    )
