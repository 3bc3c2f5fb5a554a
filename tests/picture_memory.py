"""What a picture takes of memory: `python -m tests.picture_memory` prints a table.

Each picture is opened, fitted and made into both tensors in a process of its own that has looked at
a small one before. Measured is the most memory that was resident, above that of before, beside what
the picture's pixels take in Pillow, four bytes each.
"""

import json
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
from PIL import Image

LIMIT = 256 * 2**20  # above a picture's decoded bytes
FRAME = (1024, 576)
MEAN_STD = (0.5,) * 3


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(mode: str, width: int, height: int) -> Image.Image:
    """Smooth, so that it is soon encoded."""
    rows = Image.linear_gradient("L").resize((width, height))
    if mode in ("L", "P", "I;16"):
        if mode == "I;16":
            return Image.frombytes(
                mode, rows.size, (np.asarray(rows).astype("<u2") * 257).tobytes()
            )
        return rows if mode == "L" else rows.convert("P")
    return Image.merge(mode, [rows] * len(Image.new(mode, (1, 1)).getbands()))


def huge_webp() -> bytes:
    """34 bytes that claim 16383 x 10900 pixels."""
    bits = 16382 | 10899 << 14
    body = b"WEBPVP8L" + pack("<I", 14) + b"\x2f" + pack("<I", bits) + bytes(9)
    return b"RIFF" + pack("<I", len(body)) + body


def png_bomb(width: int = 16000, height: int = 10900) -> bytes:
    """One colour, in as few bytes as zlib can."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return pack(">I", len(body)) + name + body + pack(">I", zlib.crc32(name + body))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(height)) + packer.flush()
    head = pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", rows), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


Case = tuple[Callable[[], bytes], str]
QUICK: dict[str, Case] = {
    "WebP of 34 bytes, 16383 x 10900": (huge_webp, "stretch"),
    "6000 x 5, pad": (lambda: encoded(plain("RGB", 6000, 5), "PNG"), "pad"),
    "17800 x 2, pad": (lambda: encoded(plain("RGB", 17800, 2), "PNG"), "pad"),
    "2 x 32768, pad": (lambda: encoded(plain("RGB", 2, 32768), "PNG"), "pad"),
    "32768 x 1900, crop": (lambda: encoded(plain("L", 32768, 1900), "PNG"), "crop"),
    "JPEG of 24 MP, stretch": (lambda: encoded(plain("RGB", 6000, 4000), "JPEG"), "stretch"),
    "JPEG of 64 MP, pad": (lambda: encoded(plain("RGB", 9248, 6936), "JPEG"), "pad"),
    "16-bit PNG of 24 MP, crop": (lambda: encoded(plain("I;16", 6000, 4000), "PNG"), "crop"),
}
LARGEST = (9420, 6900)  # 64,998,000
SLOW: dict[str, Case] = {
    "PNG that unpacks to 174 MP": (png_bomb, "stretch"),
    **{
        f"PNG of 65 MP, {mode}, {fit}": (
            lambda mode=mode: encoded(plain(mode, *LARGEST), "PNG", compress_level=1),  # type: ignore[misc]
            fit,
        )
        for mode, fit in [("RGBA", "pad"), ("P", "crop"), ("I;16", "stretch"), ("LA", "pad")]
    },
    "CMYK JPEG of 65 MP, crop": (lambda: encoded(plain("CMYK", *LARGEST), "JPEG"), "crop"),
    "progressive JPEG of 65 MP": (
        lambda: encoded(plain("RGB", *LARGEST), "JPEG", progressive=True, subsampling=2),
        "stretch",
    ),
    "progressive JPEG of 41 MP, 4:4:4": (
        lambda: encoded(plain("RGB", 6400, 6400), "JPEG", progressive=True, subsampling=0),
        "stretch",
    ),
    "progressive JPEG of 65 MP, 4:4:4": (
        lambda: encoded(plain("RGB", *LARGEST), "JPEG", progressive=True, subsampling=0),
        "stretch",
    ),
    "TIFF of 62 MP, LZW, in strips": (
        lambda: encoded(plain("RGB", 9000, 6900), "TIFF", compression="tiff_lzw"),
        "pad",
    ),
    "WebP of 31 MP, lossless": (
        lambda: encoded(plain("RGB", 7600, 4080), "WEBP", lossless=True, method=0, quality=0),
        "stretch",
    ),
    "WebP of 31 MP, lossy": (
        lambda: encoded(plain("RGBA", 7600, 4080), "WEBP", method=0),
        "pad",
    ),
    "AVIF of 12 MP, 4:4:4": (
        lambda: encoded(plain("RGBA", 4000, 3050), "AVIF", speed=10, subsampling="4:4:4"),
        "stretch",
    ),
    "JPEG2000 of 7.7 MP": (lambda: encoded(plain("RGB", 3200, 2400), "JPEG2000"), "stretch"),
    "JPEG2000 of 7.7 MP, RGBA": (lambda: encoded(plain("RGBA", 3200, 2400), "JPEG2000"), "pad"),
}


def use(data: bytes, fit: Any) -> str:
    """Open a picture and make all of it that a render makes; why not, where it is refused."""
    from svd_engine.image import clip_pixels, vae_pixels, view_picture
    from svd_engine.picture import open_picture

    try:
        image = open_picture(data)
    except ValueError as error:
        return str(error)
    view = view_picture(image, *FRAME, fit)
    clip_pixels(view, MEAN_STD, MEAN_STD)  # type: ignore[arg-type]
    vae_pixels(view, *FRAME)
    return ""


def resident(name: str) -> int:
    """Of this process, in bytes: VmRSS now, VmHWM at most since it was last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {name} here")


@contextmanager
def peak(found: dict[str, int]) -> Iterator[None]:
    """The most memory resident meanwhile, above that of before."""
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    yield
    found["peak"] = resident("VmHWM") - before


def measure(data: bytes, fit: str) -> dict[str, Any]:
    """In a process of its own: peak, decoded (bytes), seconds, refused (why, or empty)."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        command = [sys.executable, "-m", "tests.picture_memory", file.name, fit]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def child(path: str, fit: str) -> None:
    data = Path(path).read_bytes()
    use(encoded(plain("RGB", 300, 200), "PNG"), fit)
    found: dict[str, int] = {}
    began = time.perf_counter()
    with peak(found):
        refused = use(data, fit)
    seconds = time.perf_counter() - began
    width, height = (0, 0) if refused else Image.open(BytesIO(data)).size
    print(json.dumps({**found, "decoded": 4 * width * height, "refused": refused, "s": seconds}))


def main() -> None:
    print("| picture | file, kB | decoded, MB | peak, MB | above decoded, MB | s | |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, (make, fit) in {**QUICK, **SLOW}.items():
        data = make()
        told = measure(data, fit)
        sizes = (told["decoded"], told["peak"], max(0, told["peak"] - told["decoded"]))
        row = [name, f"{len(data) / 1000:.0f}", *(f"{size / 1e6:.0f}" for size in sizes)]
        print(f"| {' | '.join(row)} | {told['s']:.2f} | {told['refused']} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(*sys.argv[1:])
    else:
        main()
