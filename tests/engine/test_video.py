"""Videos read back with ffmpeg: exact size, frames, rate and colours; and what is refused."""

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imageio_ffmpeg import count_frames_and_secs, get_ffmpeg_exe
from PIL import Image

from svd_engine import Clip, video
from tests.conftest import draw_picture


def make_frames(width: int = 104, height: int = 72, count: int = 5) -> np.ndarray:
    return np.stack([np.asarray(draw_picture(width, height, seed)) for seed in range(count)])


def probe(path: Path) -> str:
    done = subprocess.run(
        [get_ffmpeg_exe(), "-hide_banner", "-i", str(path)], capture_output=True, text=True
    )
    return done.stderr


def read_back(path: Path) -> np.ndarray:
    command = [get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-f", "rawvideo"]
    done = subprocess.run([*command, "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.uint8)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("fps", [1, 7, 24])
def test_video_has_the_exact_size_frames_and_rate(suffix: str, fps: int, tmp_path: Path) -> None:
    path = video.save(make_frames(), fps, tmp_path / f"clip{suffix}")
    probed = probe(path)
    assert "104x72" in probed
    assert re.search(rf"\b{fps} fps", probed)
    frames, seconds = count_frames_and_secs(str(path))
    assert frames == 5
    assert seconds == pytest.approx(5 / fps, abs=0.03)


def test_mp4_is_h264_in_tagged_yuv420p_with_the_index_first(tmp_path: Path) -> None:
    path = video.save(make_frames(), 7, tmp_path / "clip.mp4")
    assert re.search(r"h264 .*yuv420p\(tv, bt709, progressive\)", probe(path))
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_mp4_keeps_the_colours(tmp_path: Path) -> None:
    x = np.linspace(0, 255, 128).astype(np.uint8)
    flat = np.zeros((4, 64, 128, 3), np.uint8)
    flat[..., 0], flat[..., 1], flat[..., 2] = x, x[::-1], 60
    back = read_back(video.save(flat, 7, tmp_path / "clip.mp4"))
    assert np.abs(back.reshape(flat.shape).astype(int) - flat).mean() < 3


def test_one_frame_is_a_video(tmp_path: Path) -> None:
    assert (
        count_frames_and_secs(str(video.save(make_frames(count=1), 7, tmp_path / "a.mp4")))[0] == 1
    )


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations(suffix: str, tmp_path: Path) -> None:
    path = video.save(make_frames(), 8, tmp_path / f"clip{suffix}")
    image: Any  # whose frames are counted only for some formats
    with Image.open(path) as image:
        assert (image.size, image.n_frames) == ((104, 72), 5)
        durations = []
        for number in range(5):
            image.seek(number)
            image.load()
            durations.append(image.info["duration"])
    assert sum(durations) == pytest.approx(5 * 1000 / 8, abs=20)


def durations(path: Path) -> list[float]:
    """Of each frame, in milliseconds."""
    image: Any
    with Image.open(path) as image:
        found = []
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            found.append(image.info["duration"])
    return found


@pytest.mark.parametrize("fps", [1, 10, 24, 30, 48, 50, 51, 60, 90, 91, 100, 120, 240])
@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_browsers_play_animations_at_their_rate(
    suffix: str, fps: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shown = durations(video.save(make_frames(count=12), fps, tmp_path / f"clip{suffix}"))
    assert min(shown) > 10  # else a browser makes it 100
    fastest = {".gif": 50, ".webp": 90}[suffix]
    assert sum(shown) == pytest.approx(12 * 1000 / min(fps, fastest), abs=21)
    assert (f"plays at {fastest} frames a second, not {fps}" in caplog.text) is (fps > fastest)


def test_a_folder_of_png_is_exact(tmp_path: Path) -> None:
    frames = make_frames()
    folder = Clip(frames, torch.empty(0), 7).save(tmp_path / "frames")
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"{number:05d}.png" for number in range(5)]
    assert all(
        np.array_equal(np.asarray(Image.open(folder / name)), frame)
        for name, frame in zip(names, frames, strict=True)
    )


def test_a_shorter_clip_leaves_no_frames_of_a_longer_one(tmp_path: Path) -> None:
    video.save(make_frames(count=5), 7, tmp_path)
    video.save(make_frames(count=2), 7, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.png", "00001.png"]


def test_the_same_frames_give_the_same_bytes() -> None:
    frames = make_frames()
    assert video.encode_video(frames, 7) == video.encode_video(frames, 7)


@pytest.mark.parametrize(("width", "height"), [(33, 32), (32, 33)])
def test_an_odd_side_is_refused(width: int, height: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"even sides, got {width} x {height}"):
        video.save(make_frames(width, height), 7, tmp_path / "clip.mp4")
    assert not list(tmp_path.iterdir())


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot write '\.avi'.*\.mp4"):
        video.save(make_frames(), 7, tmp_path / "clip.avi")


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"before")

    def fail_half_way() -> None:
        with video.replacing(path) as scratch:
            scratch.write_bytes(b"half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_half_way()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_thumbnail() -> None:
    from io import BytesIO

    with Image.open(BytesIO(video.thumbnail(make_frames(640, 320)))) as image:
        assert (image.format, image.size) == ("JPEG", (320, 160))


def test_a_video_is_decoded_to_near_its_frames() -> None:
    frames = np.stack(
        [np.full((48, 66, 3), (60 * n, 200 - 60 * n, 90), np.uint8) for n in range(4)]
    )
    decoded = video.decode_video(video.encode_video(frames, fps=7))
    assert (decoded.shape, decoded.dtype) == (frames.shape, np.uint8)
    assert np.abs(decoded.astype(int) - frames).max() <= 2
    decoded[0] = 0  # the caller's own
    with pytest.raises(ValueError, match="cannot be decoded"):
        video.decode_video(b"rubbish")
