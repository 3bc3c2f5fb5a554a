"""Writes frames as mp4, webm, gif or webp with ffmpeg, as a folder of png, or as small pictures.

Frames are uint8 arrays (F, H, W, 3). A file appears under its name only when it is complete.
"""

import logging
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

log = logging.getLogger("svd_engine")

Frames = NDArray[np.uint8]

# yuv420p of BT.709, tagged as such: players guess untagged colours by the size, and shift them.
_BT709 = "color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv"
_SCALE = "scale=in_range=pc:out_range=tv:out_color_matrix=bt709:flags=accurate_rnd"
_YUV = ["-vf", f"{_SCALE},format=yuv420p,setparams={_BT709}"]
_ENCODERS: dict[str, list[str]] = {
    ".mp4": ["-c:v", "libx264", "-crf", "17", *_YUV, "-movflags", "+faststart"],
    ".webm": ["-c:v", "libvpx-vp9", "-crf", "24", "-b:v", "0", "-row-mt", "1", *_YUV],
    ".gif": ["-filter_complex", "split[a][b];[a]palettegen[p];[b][p]paletteuse", "-loop", "0"],
    ".webp": ["-c:v", "libwebp_anim", "-quality", "90", "-loop", "0"],
}
SUFFIXES = (*_ENCODERS, "")
# Chromium, Firefox and WebKit show a frame for 100 ms if a file says 10 ms or less. The shortest
# that works is 20 ms in GIF, which counts in hundredths of a second, and 11 ms in WebP.
_FASTEST = {".gif": 50, ".webp": 90}


def _ffmpeg() -> str:
    """The executable of imageio-ffmpeg, imported only when a video is read or written."""
    from imageio_ffmpeg import get_ffmpeg_exe

    return str(get_ffmpeg_exe())


def save(frames: Frames, fps: int, path: str | os.PathLike[str]) -> Path:
    """Write a video. The suffix selects .mp4, .webm, .gif or .webp; none means .png frames."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"cannot write {path.suffix!r}: give .mp4, .webm, .gif, .webp, or a folder for .png"
        )
    if not path.suffix:
        return _save_png(frames, path)
    with replacing(path) as scratch:
        _encode(frames, fps, scratch)
    return path


def encode_video(frames: Frames, fps: int, suffix: str = ".mp4") -> bytes:
    """The bytes of a video file."""
    with tempfile.TemporaryDirectory() as folder:
        return save(frames, fps, Path(folder) / f"clip{suffix}").read_bytes()


def convert_video(video: bytes, fps: int, suffix: str) -> bytes:
    """A video file in another format, by ffmpeg alone. Raises ValueError if it cannot be read."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "given.mp4"), Path(folder, f"made{suffix}")
        given.write_bytes(video)
        command = [_ffmpeg(), "-v", "error", "-i", str(given), "-r", str(_honoured(fps, suffix))]
        done = subprocess.run([*command, *_ENCODERS[suffix], str(made)], capture_output=True)
        if done.returncode:
            raise ValueError(f"the video cannot be converted: {done.stderr.decode().strip()}")
        return made.read_bytes()


def decode_video(video: bytes) -> Frames:
    """The frames (F, H, W, 3) of a video. They differ from the originals, as codecs are lossy."""
    command = [
        *(_ffmpeg(), "-v", "error", "-i", "pipe:0"),
        *("-vf", "scale=out_range=pc:flags=accurate_rnd+full_chroma_int"),
        *("-f", "image2pipe", "-c:v", "ppm", "pipe:1"),
    ]
    done = subprocess.run(command, input=video, capture_output=True)
    if done.returncode or not done.stdout:
        raise ValueError(f"the video cannot be decoded: {done.stderr.decode().strip()}")
    # Each frame is b"P6\nWIDTH HEIGHT\n255\n" and its pixels.
    head = b"\n".join(done.stdout.split(b"\n", 3)[:3]) + b"\n"
    width, height = map(int, head.split()[1:3])
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, len(head) + width * height * 3)
    return frames[:, len(head) :].reshape(-1, height, width, 3).copy()  # writable


def thumbnail(frames: Frames, side: int = 320) -> bytes:
    """The first frame as JPEG, its longer side at most `side`."""
    image = Image.fromarray(frames[0])
    image.thumbnail((side, side))
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def sprite_sheet(frames: Frames, side: int = 160, columns: int = 5) -> bytes:
    """All frames as one JPEG, row by row, the longer side of each at most `side`."""
    small = []
    for frame in frames:
        image = Image.fromarray(frame)
        image.thumbnail((side, side))
        small.append(image)
    width, height = small[0].size
    columns = min(columns, len(small))
    sheet = Image.new("RGB", (columns * width, -(-len(small) // columns) * height))
    for number, image in enumerate(small):
        sheet.paste(image, (number % columns * width, number // columns * height))
    buffer = BytesIO()
    sheet.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which replaces it on success and is removed on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        scratch.chmod(0o644)  # mkstemp's default mode lets nobody else play the video
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _encode(frames: Frames, fps: int, path: Path) -> None:
    _, height, width, _ = frames.shape
    suffix = path.suffix.lower()
    fps = _honoured(fps, suffix)
    if suffix in (".mp4", ".webm") and (width % 2 or height % 2):
        raise ValueError(
            f"{suffix} has colour at half resolution and needs even sides, got {width} x {height}"
        )
    command = [
        *(_ffmpeg(), "-v", "error", "-y"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps)),
        *("-i", "pipe:0", "-map_metadata", "-1", "-fflags", "+bitexact"),
        *_ENCODERS[suffix],
        str(path),
    ]
    done = subprocess.run(
        command, input=np.ascontiguousarray(frames).tobytes(), capture_output=True
    )
    if done.returncode:
        raise RuntimeError(f"ffmpeg failed on {path.name}: {done.stderr.decode().strip()}")


def _honoured(fps: int, suffix: str) -> int:
    """The nearest rate that browsers play. Logs a warning if it differs from `fps`."""
    fastest = _FASTEST.get(suffix, fps)
    if fps > fastest:
        log.warning(
            "%s plays at %d frames a second, not %d: browsers would play it at 10; "
            "save .mp4 or .webm for more",
            suffix,
            fastest,
            fps,
        )
    return min(fps, fastest)


def _save_png(frames: Frames, folder: Path) -> Path:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for the .png frames, or a suffix")
    for number, frame in enumerate(frames):
        with replacing(folder / f"{number:05d}.png") as scratch:
            Image.fromarray(frame).save(scratch, "PNG")
    for stale in folder.glob("[0-9]" * 5 + ".png"):  # of an earlier, longer clip
        if int(stale.stem) >= len(frames):
            stale.unlink()
    return folder
