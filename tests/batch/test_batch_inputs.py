"""A batch's inputs: pictures from folders, S3 and manifests, and the names of their clips."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

import farm.batch.source
from farm.batch.inputs import Picture, find_pictures, read
from farm.batch.manifest import is_name
from farm.errors import RequestError, StoreError
from farm.model.request import digest_of
from farm.store.local import LocalStore

Form = Literal["NFC", "NFD"]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes files below a folder that is the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(**texts: str) -> Path:
        for name, text in texts.items():
            path = tmp_path / name.replace("__", "/").replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """What `s3://bucket` opens: a folder."""
    store = LocalStore(tmp_path / "bucket")

    def open_store(url: str) -> LocalStore:
        if url != "s3://bucket":
            raise StoreError(f"no bucket at {url}")
        return store

    monkeypatch.setattr(farm.batch.source, "open_store", open_store)
    return store


def found(*inputs: object) -> list[str]:
    return [picture.source for picture in find_pictures(map(str, inputs)).pictures]


def named(*inputs: object) -> dict[str, Picture]:
    return {picture.name: picture for picture in find_pictures(map(str, inputs)).pictures}


# Files, folders, globs


def test_finding_pictures(write: Write) -> None:
    folder = write(a_png="a", b_JPG="b", notes_txt="c", sub__c_webp="d", odd_name="e")
    assert found(".") == ["a.png", "b.JPG"]
    assert found("*.png", ".", "./a.png") == ["a.png", "b.JPG"]
    assert [*named("*.png", ".", "./a.png", "./*.png")] == ["a", "b"]
    assert found("**/*.webp") == ["sub/c.webp"]
    assert found(folder / "*.png") == [str(folder / "a.png")]
    assert found(f"file://{folder}/a%2Epng") == [str(folder / "a.png")]
    assert found("odd.name") == ["odd.name"]  # named, so tried
    for nothing in ("*.tiff", "missing.png"):
        with pytest.raises(RequestError, match="no pictures at"):
            found(nothing)
    for elsewhere in ("https://host/a.png", "file://host/a.png", "s3:///a.png"):
        with pytest.raises(RequestError, match="give a path, file:///path or s3://bucket/key"):
            found(elsewhere)


def test_names_are_stems_and_where_stems_agree_contents_too(write: Write) -> None:
    folder = write(x__cat_png="one", y__cat_jpg="two", z__cat_png="one", z__dog_png="three")
    assert (
        list(named(*sorted(folder.rglob("*.*"))))
        == [
            f"cat-{digest_of(b'one')[:8]}",  # and z/cat.png, which is the same
            f"cat-{digest_of(b'two')[:8]}",
            "dog",
        ]
    )


def test_two_pictures_never_share_a_name_in_silence(write: Write) -> None:
    literal = f"cat-{digest_of(b'one')[:8]}_png"
    write(x__cat_png="one", y__cat_png="two", **{literal: "three"})
    with pytest.raises(RequestError, match="would both be called 'cat-"):
        found("x/cat.png", "y/cat.png", "*.png")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (b"caf\xe9.png", "caf\N{REPLACEMENT CHARACTER}"),
        (b"a\nb.png", "a\N{REPLACEMENT CHARACTER}b"),
        (b".farm-x.png", "farm-x"),  # a name that no store takes
        (b"...png", "picture"),
        ("ä".encode() * 70 + b".png", "ä" * 60),
    ],
)
def test_names_are_fit_for_files(file: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(file)
    path.write_bytes(b"x")
    (picture,) = find_pictures([str(path)]).pictures
    assert picture.name == name
    picture.source.encode()
    assert read(picture) == b"x"


def test_reading_a_picture(write: Write) -> None:
    folder = write(cat_png="cat")
    (picture,) = find_pictures(["cat.png"]).pictures
    assert (picture.digest, picture.params, picture.error) == (digest_of(b"cat"), {}, "")
    assert picture.origin.folder == str(folder)
    assert read(picture) == b"cat"
    (folder / "cat.png").write_text("changed")
    with pytest.raises(RequestError, match=r"cat\.png was changed while the batch ran"):
        read(picture)
    (folder / "cat.png").unlink()
    with pytest.raises(RequestError, match=r"cat\.png was deleted"):
        read(picture)


def test_a_picture_that_cannot_be_read_keeps_its_place(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    write(cat_png="cat")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    (picture,) = find_pictures(["cat.png"]).pictures
    assert (picture.name, picture.digest) == ("cat", "")
    assert picture.error == "cannot read cat.png: Permission denied"
    with pytest.raises(RequestError, match="Permission denied"):
        read(picture)


# S3


def test_pictures_of_a_bucket(bucket: LocalStore) -> None:
    for key in ("top.png", "in/a.png", "in/b.JPG", "in/notes.txt", "in/deep/c.png", "inside.png"):
        bucket.put(key, key.encode())
    where = bucket.where
    assert found("s3://bucket") == [where("inside.png"), where("top.png")]
    assert (
        found("s3://bucket/in/")
        == found("s3://bucket/in")
        == [where("in/a.png"), where("in/b.JPG")]
    )
    (picture,) = find_pictures(["s3://bucket/in/deep/c.png"]).pictures
    assert (picture.name, picture.digest) == ("c", digest_of(b"in/deep/c.png"))
    assert read(picture) == b"in/deep/c.png"
    assert picture.origin.folder == where("in/deep")
    for nothing in ("s3://bucket/none/", "s3://bucket/none.png", "s3://bucket/*.png"):
        with pytest.raises(RequestError, match="no pictures at"):
            found(nothing)
    with pytest.raises(StoreError, match="no bucket"):
        found("s3://other/a.png")


def test_a_bucket_that_fails_fails_the_picture(
    bucket: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(key: str) -> None:
        raise StoreError(f"cannot read {key}: 503")

    bucket.put("a.png", b"a")
    monkeypatch.setattr(bucket, "get", get)
    (picture,) = find_pictures(["s3://bucket/a.png"]).pictures
    assert picture.error == "cannot read a.png: 503"


def test_a_manifest_in_a_bucket(bucket: LocalStore, write: Write) -> None:
    folder = write(local_png="c")
    bucket.put("in/a.png", b"a")
    bucket.put("b.png", b"b")
    rows = ["in/a.png,7", "../x/../b.png,8", f"{folder}/local.png,9", "s3://bucket/b.png,10"]
    bucket.put("rows.csv", "\n".join(["picture,fps", *rows[:1]]).encode())
    bucket.put("in/rows.csv", "\n".join(["picture,fps", *rows[1:]]).encode())
    pictures = find_pictures(["s3://bucket/rows.csv", "s3://bucket/in/rows.csv"]).pictures
    assert [read(p) for p in pictures] == [b"a", b"b", b"c", b"b"]
    assert [p.params for p in pictures] == [{"fps": fps} for fps in (7, 8, 9, 10)]
    bucket.put("rows.csv", b"picture\n../a.png\nnone.png")
    with pytest.raises(RequestError, match=r"line 2: picture: '\.\./a\.png' leads out of"):
        found("s3://bucket/rows.csv")


# Manifests


def test_rows_have_names_and_parameters_of_their_own(write: Write) -> None:
    folder = write(
        in__cat_png="cat",
        dog_png="dog",
        in__rows_csv="picture, name, fps, motion-bucket-id, sigmas, fit\n"
        'cat.png, tom, 12, , "14.5, 1, 0", crop\n'
        "\n"
        "../dog.png,,,40,,\n",
        rows_jsonl='\ufeff{"picture": "in/cat.png", "steps": 5, "seed": null}\r\n\n'
        f'{{"picture": "{Path.cwd()}/dog.png", "name": "rex", "sigmas": [2, 0.5], "seed": 3}}\n',
    )
    pictures = named("in/rows.csv", folder / "rows.jsonl")
    assert {name: p.params for name, p in pictures.items()} == {
        "tom": {"fps": 12, "sigmas": (14.5, 1.0, 0.0), "fit": "crop"},
        "dog": {"motion_bucket_id": 40},
        "cat": {"num_inference_steps": 5},
        "rex": {"sigmas": (2.0, 0.5), "seed": 3},
    }
    assert [p.source for p in pictures.values()] == [
        "in/cat.png",
        "in/../dog.png",
        f"{folder}/in/cat.png",
        f"{folder}/dog.png",
    ]


def test_names_of_rows(write: Write) -> None:
    """A given name stays; rows of one picture are told by what they ask for, the same row once."""
    write(cat_png="cat", rows_csv="picture,fps\ncat.png,7\ncat.png,8\ncat.png,8\n")
    names = list(named("cat.png", "rows.csv"))
    assert len(names) == 3
    assert names[0] == f"cat-{digest_of(b'cat')[:8]}"
    assert all(is_name(name) for name in names)
    write(other__cat_png="other", mine_jsonl='{"picture": "cat.png", "name": "cat"}')
    pictures = named("mine.jsonl", "other/cat.png")
    assert list(pictures) == ["cat", f"cat-{digest_of(b'other')[:8]}"]
    write(again_jsonl='{"picture": "other/cat.png", "name": "cat"}')
    with pytest.raises(RequestError, match=r"would both be called 'cat'.*manifest"):
        named("mine.jsonl", "again.jsonl")


def test_a_row_without_its_picture_fails_alone(write: Write) -> None:
    write(cat_png="cat", rows_csv="picture\ncat.png\ngone.png\n*.png\n.\n")
    assert [picture.error for picture in named("rows.csv").values()] == [
        "",
        "rows.csv line 3: picture: there is none at gone.png",
        "rows.csv line 4: picture: there is none at *.png; a manifest takes no globs",
        "rows.csv line 5: picture: there is none at .",
    ]


def test_all_that_is_wrong_is_told_at_once(write: Write) -> None:
    write(
        rows_csv="picture,fps\na.png,0\nftp://host/x.png,7\n",
        more_jsonl='{"picture": "b.png", "fps": -1}\nno JSON\n',
    )
    with pytest.raises(RequestError) as caught:
        found("rows.csv", "gone.png", "more.jsonl")
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "rows.csv line 2",
        "rows.csv line 3",
        "no pictures at 'gone.png'",
        "more.jsonl line 1",
        "more.jsonl line 2",
    ]


# What is left out, and how names are spelled


def test_what_a_folder_leaves_out_is_counted(write: Write) -> None:
    folder = write(a_png="a", notes_txt="n", rows_csv="picture\n", sub__b_png="b")
    for hidden in ("._a.jpg", ".DS_Store", "Thumbs.db", ".cache.png"):
        (folder / hidden).write_text("x")
    (folder / "@eaDir").mkdir()
    (folder / "@eaDir/a.jpg").write_text("thumbnail")
    for suffix in ("jfif", "jpe", "mpo", "tga", "heic", "HEIF", "jp2", "pgm"):
        (folder / f"{suffix}.{suffix}").write_text(suffix)
    inputs = find_pictures([str(folder)])
    assert len(inputs.pictures) == 9
    listing = inputs.listings[str(folder)]
    assert listing.say_left_out() == (
        "7 files left out: 5 hidden, 1 not a picture, 1 a manifest; 1 folder not searched"
    )
    assert {Path(str(source)).name for source, why in listing.left_out if why == "hidden"} == {
        *("._a.jpg", ".DS_Store", "Thumbs.db", ".cache.png", "@eaDir")
    }
    listing = find_pictures(["**/*"]).listings["**/*"]
    assert [str(source) for source in listing.sources if source.path.endswith("b.png")]
    assert "@eaDir/a.jpg" in {str(source) for source, why in listing.left_out if why == "hidden"}


def test_a_glob_that_names_hidden_ones_finds_them(write: Write) -> None:
    folder = write(a_png="a")
    (folder / ".cache").mkdir()
    (folder / ".cache/b.png").write_text("b")
    (folder / ".c.png").write_text("c")
    assert found(".cache/*.png") == [".cache/b.png"]
    assert found(".c.png") == [".c.png"]  # named, so tried
    with pytest.raises(RequestError, match=r"no pictures at '\.\*': 1 file left out: 1 hidden"):
        found(".*")


def test_what_a_prefix_leaves_out_is_counted(bucket: LocalStore) -> None:
    for key in ("in/a.heic", "in/._a.jpg", "in/notes.txt", "in/deep/c.png", "in/deep/d.png"):
        bucket.put(key, key.encode())
    inputs = find_pictures(["s3://bucket/in"])
    assert [picture.name for picture in inputs.pictures] == ["a"]
    assert inputs.listings["s3://bucket/in"].say_left_out() == (
        "2 files left out: 1 hidden, 1 not a picture; 1 folder not searched"
    )


@pytest.mark.parametrize(("there", "asked"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_found_however_unicode_spells_them(
    there: Form, asked: Form, write: Write, bucket: LocalStore
) -> None:
    folder = write()
    path = unicodedata.normalize(there, "Füße/café 한국.png")
    wanted = unicodedata.normalize(asked, "Füße/café 한국.png")
    (folder / path).parent.mkdir()
    (folder / path).write_text("cat")
    bucket.put(f"in/{path}", b"cat")
    table = f"picture,name\n{wanted},{unicodedata.normalize(there, 'é')}\n".encode()
    (folder / "rows.csv").write_bytes(table)
    bucket.put("in/rows.csv", table)
    for given in (wanted, wanted.replace("caf", "*"), "rows.csv", "s3://bucket/in/rows.csv"):
        (picture,) = find_pictures([given]).pictures
        assert (picture.digest, picture.error) == (digest_of(b"cat"), "")
        assert unicodedata.is_normalized("NFC", picture.name)
    (picture,) = find_pictures([f"s3://bucket/in/{wanted}"]).pictures
    assert picture.digest == digest_of(b"cat")
    assert found(wanted.partition("/")[0]) == [path]
    for prefix in (wanted.partition("/")[0], wanted.partition("/")[0] + "/"):
        assert found(f"s3://bucket/in/{prefix}") == [bucket.where(f"in/{path}")]
