"""PSNR compared with ffmpeg's filter, SSIM with its formula, and the table of tiers."""

import math
import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from svd_engine.__main__ import main
from svd_engine.bench.quality import C1, C2, LUMA, SPREAD, psnr, ssim
from svd_engine.bench.tier_comparison import VARIANTS, variants_of
from svd_engine.params import RenderParams
from svd_engine.video import Frames


def frames(seed: int, height: int = 18, width: int = 16) -> Frames:
    return np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


def near(clip: Frames, seed: int = 9) -> Frames:
    noise = np.random.default_rng(seed).normal(0, 12, clip.shape)
    return (clip + noise).clip(0, 255).astype(np.uint8)


def test_psnr_is_ffmpegs(tmp_path: Path) -> None:
    a, b = frames(0), near(frames(0))
    args = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner"]
    for name, clip in (("a", a), ("b", b)):
        (tmp_path / name).write_bytes(clip.tobytes())
        args += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "16x18", "-i", str(tmp_path / name)]
    args += ["-lavfi", "[0:v]format=gbrp[x];[1:v]format=gbrp[y];[x][y]psnr", "-f", "null", "-"]
    output = subprocess.run(args, capture_output=True, text=True, check=True).stderr
    found = re.search(r"average:([\d.]+)", output)
    assert found, output
    assert psnr(a, b) == pytest.approx(float(found[1]), abs=1e-4)
    assert psnr(a, a) == math.inf


def test_ssim_is_the_formula_written_out() -> None:
    a, b = frames(1), near(frames(1))
    at = np.arange(11) - 5
    window = np.exp(-(at[:, None] ** 2 + at**2) / (2 * SPREAD**2))
    window /= window.sum()
    likenesses = []
    for x, y in zip(a @ np.array(LUMA), b @ np.array(LUMA), strict=True):
        for top in range(x.shape[0] - 10):
            for left in range(x.shape[1] - 10):
                p, q = (z[top : top + 11, left : left + 11] for z in (x, y))
                m, n = (window * p).sum(), (window * q).sum()
                v, w = (window * (p - m) ** 2).sum(), (window * (q - n) ** 2).sum()
                c = (window * (p - m) * (q - n)).sum()
                over = (2 * m * n + C1) * (2 * c + C2)
                likenesses.append(over / ((m * m + n * n + C1) * (v + w + C2)))
    assert ssim(a, b) == pytest.approx(np.mean(likenesses), rel=1e-9)
    assert ssim(a, a) == pytest.approx(1.0)
    assert ssim(a, 255 - a) < 0 < ssim(a, b) < 1


def test_what_is_compared_keeps_what_was_asked_besides() -> None:
    compared = variants_of(RenderParams(seed=7, fps=9, tier="fast"))
    assert list(compared) == list(VARIANTS)
    assert {params.fps for params in compared.values()} == {9}
    steps = [(params.tier, params.steps, params.reuse_interval) for params in compared.values()]
    assert steps[0] == ("exact", 25, 1)
    assert steps[-1] == ("fast", 10, 2)


def test_the_table_of_the_tiers(
    picture: Image.Image,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = {"num_inference_steps": 4}
    compared = {"exact": few, "reuse": {**few, "reuse_interval": 3}, "fast": {"tier": "fast"}}
    monkeypatch.setattr("svd_engine.bench.tier_comparison.VARIANTS", compared)
    path = tmp_path / "a.png"
    picture.save(path)
    small = ["--width", "32", "--height", "32", "--num-frames", "1", "--model", "tiny"]
    assert main(["tiers", str(path), *small]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["steps", "whole", "seconds", "ratio", "PSNR", "least", "SSIM"]
    exact, *others = ([float(number) for number in row[20:].split()] for row in rows)
    assert [row[:20].strip() for row in rows] == list(compared)
    assert [exact[:2], *(other[:2] for other in others)] == [[4, 4], [4, 2], [10, 10]]
    assert exact[3:] == [1.0]
    assert all(math.isfinite(other[4]) and other[6] < 1 for other in others)
    assert main(["tiers", str(tmp_path / "b.png"), *small]) == 2
