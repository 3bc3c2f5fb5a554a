"""`python -m tests.picture_memory`: measure how much memory pictures take.

Each picture is opened, fitted and converted to both tensors in a process of its own, after a small
one of the same format to warm up. The table shows the peak of resident memory above that before,
beside the size of the picture's pixels in Pillow, which is four bytes each.
"""

import json
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
from PIL import Image

from tests.support.heic import heic

LIMIT = 256 * 2**20  # the peak may exceed the picture's decoded bytes by this much
FRAME = (1024, 576)
MEAN_STD = (0.5,) * 3


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(mode: str, width: int, height: int) -> Image.Image:
    """A smooth picture, which is quickly encoded."""
    rows = Image.linear_gradient("L").resize((width, height))
    if mode in ("L", "P", "I;16"):
        if mode == "I;16":
            return Image.frombytes(
                mode, rows.size, (np.asarray(rows).astype("<u2") * 257).tobytes()
            )
        return rows if mode == "L" else rows.convert("P")
    return Image.merge(mode, [rows] * len(Image.new(mode, (1, 1)).getbands()))


def huge_webp() -> bytes:
    """A WebP file of 34 bytes that claims 16383 x 10900 pixels."""
    bits = 16382 | 10899 << 14
    body = b"WEBPVP8L" + pack("<I", 14) + b"\x2f" + pack("<I", bits) + bytes(9)
    return b"RIFF" + pack("<I", len(body)) + body


def png_bomb(width: int = 16000, height: int = 10900) -> bytes:
    """A PNG of one colour, in as few bytes as zlib can make."""

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
TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"


def noise(mode: str, width: int, height: int) -> Image.Image:
    """A picture of noise, which no encoder can compress."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(0).bytes(width * height * bands)
    return Image.frombytes(mode, (width, height), values)


def frames(kind: str, mode: str, width: int, height: int, **options: Any) -> bytes:
    """An animation, or a file with several pictures."""
    first, *others = (plain(mode, width, height) for _ in range(4))
    for number, image in enumerate(others):
        image.putpixel((number, 0), image.getpixel((0, height - 1)) or 0)
    return encoded(first, kind, save_all=True, append_images=others, **options)


def rle_bmp(width: int, height: int) -> bytes:
    """A BMP of runs, each as long as possible."""
    row = b"".join(pack("BB", min(255, width - x), 7) for x in range(0, width, 255)) + b"\0\0"
    start, body = 54 + 1024, row * height + b"\0\1"
    head = pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 256)
    return b"BM" + pack("<IHHI", start + len(body), 0, 0, start) + head + bytes(1024) + body


def scanned(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated many times."""
    data = encoded(plain("L", width, height), "JPEG", progressive=True)
    at, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[at:end] * scans + data[end:]


def saved(
    kind: str, mode: str = "RGB", size: tuple[int, int] = LARGEST, fit: str = "stretch", **how: Any
) -> Case:
    """A smooth picture, saved in a format."""
    return (lambda: encoded(plain(mode, *size), kind, **how)), fit


def heif(size: tuple[int, int] = (6000, 4000), **how: Any) -> Case:
    return (lambda: heic(plain("RGB", *size), **how)), "stretch"


LOSSLESS: dict[str, Any] = {"lossless": True, "method": 0, "quality": 0}
BIG_JP2, BIG_AVIF = (3450, 3450), (4000, 3050)
WHOLE = 6900  # the rows of a strip, so that the file is one strip
SLOW: dict[str, Case] = {
    "PNG that unpacks to 174 MP": (png_bomb, "stretch"),
    "PNG, RGBA, pad": saved("PNG", "RGBA", fit="pad", compress_level=1),
    "PNG, RGBA, turned": saved("PNG", "RGBA", compress_level=1, exif=TURNED),
    "PNG, P, crop": saved("PNG", "P", fit="crop", compress_level=1),
    "PNG, 16 bits": saved("PNG", "I;16", compress_level=1),
    "PNG, LA, pad": saved("PNG", "LA", fit="pad", compress_level=1),
    "PNG, 20 MP of noise": (lambda: encoded(noise("RGB", 5000, 4000), "PNG"), "stretch"),
    "APNG of four frames, 12 MP": (lambda: frames("PNG", "RGBA", 4000, 3000), "stretch"),
    "JPEG, L": saved("JPEG", "L"),
    "JPEG, CMYK, crop": saved("JPEG", "CMYK", fit="crop"),
    "JPEG, CMYK, turned": saved("JPEG", "CMYK", exif=TURNED),
    "JPEG, progressive": saved("JPEG", progressive=True, subsampling=2),
    "JPEG, progressive, 4:4:4, 41 MP": saved(
        "JPEG", size=(6400, 6400), progressive=True, subsampling=0
    ),
    "JPEG, progressive, 4:4:4": saved("JPEG", progressive=True, subsampling=0),
    "JPEG of 80 scans": (lambda: scanned(*LARGEST, 80), "stretch"),
    "JPEG of 180 scans": (lambda: scanned(*LARGEST, 180), "stretch"),
    "MPO of four pictures, 12 MP": (lambda: frames("MPO", "RGB", 4000, 3000), "stretch"),
    "TIFF, LZW, in strips, pad": saved("TIFF", compression="tiff_lzw", fit="pad"),
    "TIFF, LZW, one strip": saved("TIFF", compression="tiff_lzw", tiffinfo={278: WHOLE}),
    "TIFF, deflate, one strip": saved(
        "TIFF", compression="tiff_adobe_deflate", tiffinfo={278: WHOLE}
    ),
    "TIFF, JPEG, one strip, 24 MP": saved(
        "TIFF", size=(6000, 4000), compression="jpeg", tiffinfo={278: 4000}
    ),
    "TIFF, PackBits": saved("TIFF", compression="packbits"),
    "TIFF, fax": (
        lambda: encoded(plain("L", *LARGEST).convert("1"), "TIFF", compression="group4"),
        "pad",
    ),
    "TIFF, as it is": saved("TIFF"),
    "TIFF, as it is, CMYK, turned": saved("TIFF", "CMYK", (8000, 7500), exif=TURNED),
    "TIFF, 16 bits": saved("TIFF", "I;16"),
    "TIFF of four pages, 12 MP": (lambda: frames("TIFF", "RGB", 4000, 3000), "stretch"),
    "BigTIFF": saved("TIFF", size=(300, 200), big_tiff=True),
    "GIF": saved("GIF", "P"),
    "GIF of four frames, 12 MP": (lambda: frames("GIF", "P", 4000, 3000), "stretch"),
    "BMP": saved("BMP"),
    "BMP in runs, 2 MP": (lambda: rle_bmp(2000, 1000), "stretch"),
    "BMP in runs": (lambda: rle_bmp(*LARGEST), "stretch"),
    "PPM": saved("PPM"),
    "PPM as text, 2 MP": (lambda: b"P3 2000 1000 255 " + b"1 " * 6_000_000, "stretch"),
    "PGM as text, 16 bits, 2 MP": (lambda: b"P2 2000 1000 65535 " + b"1 " * 2_000_000, "stretch"),
    "PPM as text, 3 MP": (lambda: b"P3 2000 1500 255 " + b"1 " * 9_000_000, "stretch"),
    "WebP, lossless, 29 MP": saved("WEBP", size=(5400, 5400), **LOSSLESS),
    "WebP, lossless, 17 MP of noise": (
        lambda: encoded(noise("RGB", 4000, 4250), "WEBP", **LOSSLESS),
        "stretch",
    ),
    "WebP, lossless, 12 MP of noise": (
        lambda: encoded(noise("RGB", 4000, 3050), "WEBP", **LOSSLESS),
        "stretch",
    ),
    "WebP, lossy, alpha, 23 MP": saved("WEBP", "RGBA", (4800, 4800), "pad", method=0, quality=10),
    "WebP of four frames, 12 MP": (
        lambda: frames("WEBP", "RGBA", 4000, 3000, **LOSSLESS),
        "stretch",
    ),
    "AVIF, 4:4:4, alpha, 12 MP": saved("AVIF", "RGBA", BIG_AVIF, speed=10, subsampling="4:4:4"),
    "AVIF, 4:2:0, 12 MP": saved("AVIF", "RGB", BIG_AVIF, speed=10),
    "AVIF of 24 MP": saved("AVIF", "RGB", (6000, 4000), speed=10),
    "JPEG2000, 12 MP": saved("JPEG2000", size=BIG_JP2),
    "JPEG2000, wavelets of floats, 12 MP": saved("JPEG2000", size=BIG_JP2, irreversible=True),
    "JPEG2000, RGBA, 9 MP, pad": saved("JPEG2000", "RGBA", (2980, 2980), "pad"),
    "JPEG2000, 4 MP of noise": (lambda: encoded(noise("RGB", 2000, 2000), "JPEG2000"), "stretch"),
    "JPEG2000, 4 MP in tiles of 32 x 32": saved("JPEG2000", size=(2000, 2000), tile_size=(32, 32)),
    "JPEG2000, 12 MP in precincts of 64 x 64": saved(
        "JPEG2000", size=BIG_JP2, codeblock_size=(32, 32), precinct_size=(64, 64)
    ),
    "JPEG2000, 3 MP in blocks of 4 x 4": saved(
        "JPEG2000", size=(2000, 1500), codeblock_size=(4, 4)
    ),
    "HEIC, 4:2:0, 24 MP": heif(),
    "HEIC in tiles, 12 MP, turned": heif((4032, 3024), tile=512, turn=1),
    "HEIC, 4:4:4, 24 MP": heif(pixel_format="yuv444p"),
    "HEIC, 10 bits, 24 MP": heif(pixel_format="yuv420p10le"),
    "HEIC, 12 bits, 4:4:4, 20 MP": heif((5000, 4000), pixel_format="yuv444p12le"),
    "HEIC of 24 MP that claims 640 x 640": heif(claims=(640, 640)),
    "TGA": saved("TGA"),
    "TGA in runs, RGBA, pad": saved("TGA", "RGBA", fit="pad", compression="tga_rle"),
    "ICO": saved("ICO", size=(256, 256)),
}


def use(data: bytes, fit: Any) -> str:
    """Open a picture and convert it as a render does; returns the reason if it is refused."""
    from svd_engine.picture_files import open_picture
    from svd_engine.picture_pixels import clip_pixels, vae_pixels, view_picture

    try:
        image = open_picture(data)
    except ValueError as error:
        return str(error)
    view = view_picture(image, *FRAME, fit)
    clip_pixels(view, MEAN_STD, MEAN_STD)
    vae_pixels(view, *FRAME)
    return ""


def resident(name: str) -> int:
    """This process's resident memory in bytes: VmRSS is the current, VmHWM the peak since reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {name} here")


@contextmanager
def peak(found: dict[str, int]) -> Iterator[None]:
    """The peak of resident memory during a call, above that before."""
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    yield
    found["peak"] = resident("VmHWM") - before


def measure(data: bytes, fit: str) -> dict[str, Any]:
    """Measure in a process of its own: peak and decoded bytes, seconds, and why it was refused."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        command = [sys.executable, "-m", "tests.picture_memory", file.name, fit]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def child(path: str, fit: str) -> None:
    data = Path(path).read_bytes()
    with suppress(Exception):  # data that is not a picture has no format
        kind = Image.open(BytesIO(data)).format or ""
        use(encoded(plain("RGB", 300, 200), kind), fit)
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
        measured = measure(data, fit)
        sizes = (
            measured["decoded"],
            measured["peak"],
            max(0, measured["peak"] - measured["decoded"]),
        )
        row = [name, f"{len(data) / 1000:.0f}", *(f"{size / 1e6:.0f}" for size in sizes)]
        print(f"| {' | '.join(row)} | {measured['s']:.2f} | {measured['refused']} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(*sys.argv[1:])
    else:
        main()
