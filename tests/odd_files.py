"""Forty odd files, like those in people's folders, and the result of a batch for each.

`python -m tests.odd_files` writes them to a folder, runs `python -m farm.batch` on it and on its
manifests, and prints the result for each file.
"""

import json
import os
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from struct import pack

from farm.batch.listing import list_source
from farm.batch.source import Source
from tests.conftest import draw_picture
from tests.picture_memory import TURNED, encoded, huge_webp, png_bomb
from tests.support.heic import heic

SMALL = ("--width", "64", "--height", "48", "--num-frames", "3", "--num-inference-steps", "2")
RGB = draw_picture(80, 60)

DONE, LEFT_OUT = "done", "left out"
# Each file's content, and its result: a clip, or the reason why there is none.
FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "heic.heic": (lambda: heic(RGB), DONE),
    "HEIC of a phone.HEIC": (lambda: heic(RGB, tile=32, turn=3, exif=TURNED), DONE),
    "heif of ten bits.heif": (lambda: heic(RGB, pixel_format="yuv420p10le"), DONE),
    "a heic that lies.heic": (lambda: heic(RGB, claims=(30, 30)), "broken"),
    "half a heic.heic": (lambda: heic(RGB)[:3000], "broken"),
    "jfif.jfif": (lambda: encoded(RGB, "JPEG"), DONE),
    "jpe.JPE": (lambda: encoded(RGB, "JPEG"), DONE),
    "mpo.mpo": (lambda: encoded(RGB, "MPO", save_all=True, append_images=[RGB]), DONE),
    "tga.tga": (lambda: encoded(RGB, "TGA"), DONE),
    "turned.jpg": (lambda: encoded(RGB, "JPEG", exif=TURNED), DONE),
    "cmyk.jpg": (lambda: encoded(RGB.convert("CMYK"), "JPEG"), DONE),
    "half.jpg": (lambda: encoded(RGB, "JPEG")[:1500], "broken"),
    "empty.png": (lambda: b"", "empty"),
    "text.png": (lambda: b"this is no picture", "not a picture"),
    "page.jpg": (lambda: b"<!doctype html><title>404</title>", "not a picture"),
    "a jpeg.png": (lambda: encoded(RGB, "JPEG"), DONE),
    "palette.png": (lambda: encoded(RGB.quantize(), "PNG"), DONE),
    "grey of 16 bits.png": (lambda: encoded(RGB.convert("I;16"), "PNG"), DONE),
    "alpha.png": (lambda: encoded(RGB.convert("RGBA"), "PNG"), DONE),
    "bomb.png": (lambda: png_bomb(9000, 9000), "over"),
    "one pixel.png": (lambda: encoded(RGB.resize((1, 1)), "PNG"), "needs 2"),
    "animated.gif": (lambda: encoded(RGB, "GIF", save_all=True, append_images=[RGB]), DONE),
    "huge.webp": (huge_webp, "over"),
    "webp.webp": (lambda: encoded(RGB, "WEBP"), DONE),
    "avif.avif": (lambda: encoded(RGB, "AVIF"), DONE),
    "pages.tiff": (lambda: encoded(RGB, "TIFF", save_all=True, append_images=[RGB]), DONE),
    "bigtiff.tif": (lambda: encoded(RGB, "TIFF", big_tiff=True), "BigTIFF"),
    "jp2.jp2": (lambda: encoded(RGB, "JPEG2000"), DONE),
    "ppm.ppm": (lambda: encoded(RGB, "PPM"), DONE),
    unicodedata.normalize("NFD", "Müller 한국 🐈.png"): (lambda: encoded(RGB, "PNG"), DONE),
    "a 'name' & \"more\" % #1;.png": (lambda: encoded(RGB.rotate(90), "PNG"), DONE),
    "name with\nnewline.png": (lambda: encoded(RGB.rotate(180), "PNG"), DONE),
    "._heic.jpg": (lambda: bytes(4096), LEFT_OUT),
    ".DS_Store": (lambda: b"\0\0\0\1Bud1", LEFT_OUT),
    "Thumbs.db": (lambda: b"\xd0\xcf\x11\xe0", LEFT_OUT),
    "notes.txt": (lambda: b"hello", LEFT_OUT),
    "film.mp4": (lambda: pack(">I4s4s", 12, b"ftyp", b"isom"), LEFT_OUT),
    "scan.pdf": (lambda: b"%PDF-1.4", LEFT_OUT),
    "raw.cr2": (lambda: b"II*\0", LEFT_OUT),
    "rows.csv": (
        lambda: "Picture;Name;FPS;\r\nheic.heic;a row;5;\r\n;;;\r\ngone.jpg;gone;;\r\n".encode(
            "utf-16"
        ),
        LEFT_OUT,
    ),
}
ROWS = {
    "a row": DONE,
    "gone": "there is none at",
}  # the manifest's rows, if it is given as an input


def write_odd_files(folder: Path) -> None:
    folder.mkdir()
    for name, (make, _) in FILES.items():
        (folder / name).write_bytes(make())
    (folder / "@eaDir").mkdir()
    (folder / "deeper").mkdir()


def run_batch(folder: Path, *arguments: str) -> dict[str, str]:
    """Run a batch; returns for each file `done`, or the reason why there is no clip."""
    out = folder.parent / "out"
    command = [sys.executable, "-m", "farm.batch", str(folder), str(folder / "rows.csv")]
    command += ["--out", str(out), "--store", str(folder.parent / "store"), "--model", "tiny"]
    environment = os.environ | {"RAY_ADDRESS": "local"}
    done = subprocess.run(
        [*command, *SMALL, *arguments], capture_output=True, text=True, env=environment
    )
    print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
    rows = json.loads((out / "summary.json").read_text())["clips"]
    ended = {}
    for row in rows:
        name = row["name"] if row["name"] in ROWS else Path(row["picture"]).name
        ended[name] = row["error"] or row["status"]
    left_out = list_source(Source(str(folder))).left_out
    return ended | {Path(str(source)).name: f"{LEFT_OUT}: {why}" for source, why in left_out}


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "odd"
        write_odd_files(folder)
        print("| file | ends as |")
        print("| --- | --- |")
        for name, ended in run_batch(folder).items():
            shown = name.encode("unicode_escape").decode() if "\n" in name else name
            print(f"| {shown} | {ended.replace(f'{home}/', '')} |")


if __name__ == "__main__":
    main()
