"""Pictures of all kinds: opened correctly, or refused with a reason."""

import contextlib
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
    _resize_with_antialiasing,
)
from PIL import Image

from svd_engine import Engine, RenderParams
from svd_engine.picture_files import MAX_PIXELS, check_picture, open_picture
from svd_engine.picture_pixels import clip_pixels, fit_picture, vae_pixels, view_picture
from tests.conftest import draw_picture
from tests.support.reference import load_pipeline, record, relative_difference

RGB = draw_picture(60, 44)
GREY = RGB.convert("L")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rotated_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    return encoded(RGB.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)


def with_alpha(image: Image.Image) -> Image.Image:
    alpha = Image.fromarray(np.arange(60 * 44).reshape(44, 60).astype(np.uint8))
    image = image.copy()
    image.putalpha(alpha)
    return image


def sixteen_bit() -> Image.Image:
    return Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)


PALETTE = RGB.quantize(200)
GREY_RGB = Image.merge("RGB", [GREY] * 3)
# What is opened, and the 8-bit RGB it shows.
ODD: dict[str, tuple[bytes, Image.Image]] = {
    "RGB": (encoded(RGB, "PNG"), RGB),
    "RGBA": (encoded(with_alpha(RGB), "PNG"), RGB),
    "greyscale": (encoded(GREY, "PNG"), GREY_RGB),
    "greyscale and alpha": (encoded(with_alpha(GREY), "PNG"), GREY_RGB),
    "palette": (encoded(PALETTE, "PNG"), PALETTE.convert("RGB")),
    "palette with transparency": (
        encoded(PALETTE, "PNG", transparency=3),
        PALETTE.convert("RGB"),
    ),
    "16-bit": (encoded(sixteen_bit(), "PNG"), GREY_RGB),
    "16-bit tiff": (encoded(sixteen_bit(), "TIFF"), GREY_RGB),
    "CMYK": (encoded(RGB.convert("CMYK"), "TIFF"), RGB),
    "turned by EXIF": (rotated_by_exif(), RGB),
    "black and white": (encoded(GREY.convert("1"), "PNG"), GREY.convert("1").convert("RGB")),
    "webp": (encoded(RGB, "WEBP", lossless=True), RGB),
    "first frame of a gif": (
        encoded(PALETTE, "GIF", save_all=True, append_images=[PALETTE.rotate(180)]),
        PALETTE.convert("RGB"),
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_pictures_are_what_they_show(kind: str) -> None:
    data, shows = ODD[kind]
    assert np.array_equal(np.asarray(open_picture(data)), np.asarray(shows))


@pytest.mark.parametrize(
    "kind", ["RGBA", "greyscale", "palette", "16-bit", "CMYK", "turned by EXIF"]
)
def test_odd_pictures_render_as_in_diffusers(kind: str, tiny: Path) -> None:
    data, shows = ODD[kind]
    call = {"width": 64, "height": 64, "num_frames": 3, "num_inference_steps": 2}
    tape = record(load_pipeline(tiny), shows, seed=4, **call)
    clip = Engine.from_pretrained(tiny).render(data, RenderParams(seed=4, **call))
    assert relative_difference(clip.latents, tape.latents[-1][0]) <= 1e-4
    assert np.abs(clip.frames.astype(int) - tape.frames).max() <= 1


@pytest.mark.parametrize("source", ["path", "text", "bytes", "image"])
def test_sources(source: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(RGB, "PNG"))
    given: Any = {"path": path, "text": str(path), "bytes": path.read_bytes(), "image": RGB}[source]
    assert np.array_equal(np.asarray(open_picture(given)), np.asarray(RGB))


def bomb() -> bytes:
    """A PNG that says it is 60,000 pixels wide and high."""
    data = bytearray(encoded(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"not a picture", "not a picture of a known format"),
        (encoded(RGB, "PNG")[:900], "broken"),
        (encoded(RGB, "JPEG")[:700], "broken"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture of a known format"),
        (bomb(), "over 65000000"),
        (encoded(Image.new("RGB", (1, 50)), "PNG"), "1 x 50 pixels"),
        (encoded(Image.fromarray(np.zeros((9, 9), np.float32)), "TIFF"), "floating-point"),
    ],
)
def test_bad_pictures_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        open_picture(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "JPEG2000"])
def test_damaged_pictures_open_or_are_refused(kind: str) -> None:
    """Bytes changed, cut out or cut off: a picture or a ValueError, never anything else."""
    whole, rng = encoded(RGB, kind), np.random.default_rng(7)
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 6)):
            data[rng.integers(len(data))] = rng.integers(256)
        if rng.random() < 0.5:
            start = rng.integers(len(data))
            del data[start : start + rng.integers(1, len(data))]
        with contextlib.suppress(ValueError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of odd metadata
            assert open_picture(bytes(data)).mode == "RGB"


def test_a_padded_picture_has_a_limit_only_where_its_bars_are_drawn() -> None:
    image = Image.new("RGB", (100, 30_000))
    with pytest.raises(ValueError, match="over"):
        fit_picture(image, 1024, 576, "pad")
    assert vae_pixels(view_picture(image, 64, 32, "pad"), 64, 32).shape == (1, 3, 32, 64)


def test_bad_paths(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no picture at .*missing\.png"):
        open_picture(tmp_path / "missing.png")
    with pytest.raises(ValueError, match="is a folder"):
        open_picture(tmp_path)


def test_too_many_pixels_are_refused_before_decoding() -> None:
    class Huge(Image.Image):
        size = (MAX_PIXELS, 2)

    with pytest.raises(ValueError, match="over"):
        open_picture(Huge())


@pytest.mark.parametrize("size", [(60, 44), (44, 60), (61, 61)])
def test_fit_crop_keeps_the_centre(size: tuple[int, int]) -> None:
    image = draw_picture(*size)
    cropped = fit_picture(image, 64, 32, "crop")
    w, h = cropped.size
    assert abs(w / h - 64 / 32) < 0.05
    left, top = (size[0] - w) // 2, (size[1] - h) // 2
    expected = image.crop((left, top, left + w, top + h))
    assert np.array_equal(np.asarray(cropped), np.asarray(expected))


def test_fit_pad_keeps_everything_between_black_bars() -> None:
    padded = fit_picture(RGB, 44, 60, "pad")
    assert padded.size == (60, 82)
    pixels = np.asarray(padded)
    assert np.array_equal(pixels[19:63], np.asarray(RGB))
    assert not pixels[:19].any()
    assert not pixels[63:].any()


def test_fit_stretch_leaves_the_picture_alone() -> None:
    assert fit_picture(RGB, 8, 800, "stretch") is RGB


@pytest.mark.parametrize(
    "size", [(60, 44), (2, 2), (3, 300), (2, 700), (500, 2), (224, 224), (1200, 801), (6000, 5)]
)
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_a_view_makes_the_numbers_of_the_whole_picture(size: tuple[int, int], fit: Any) -> None:
    """Band by band, and with bars that are not drawn: as Pillow and diffusers make them."""
    pixels = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    view, whole = view_picture(image, 64, 36, fit), fit_picture(image, 64, 36, fit)
    resized = np.asarray(whole.resize((64, 36), Image.Resampling.LANCZOS))
    expected = torch.from_numpy(resized.copy()).permute(2, 0, 1)[None].float() / 255.0
    assert torch.equal(vae_pixels(view, 64, 36), 2.0 * expected - 1.0)
    x = torch.from_numpy(np.array(whole)).permute(2, 0, 1)[None].float() / 255.0
    theirs = (_resize_with_antialiasing(2.0 * x - 1.0, (224, 224)) + 1.0) / 2.0
    ours = clip_pixels(view, (0.0,) * 3, (1.0,) * 3)
    assert relative_difference(ours, theirs) <= 1e-5


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_fit_is_diffusers_on_the_fitted_picture(fit: Any, tiny: Path) -> None:
    call = {"width": 64, "height": 96, "num_frames": 2, "num_inference_steps": 1}
    tape = record(load_pipeline(tiny), fit_picture(RGB, 64, 96, fit), **call)
    clip = Engine.from_pretrained(tiny).render(RGB, RenderParams(fit=fit, **call))
    assert relative_difference(clip.latents, tape.latents[-1][0]) <= 1e-4


def test_rendering_does_not_change_the_picture(tiny: Path) -> None:
    image = RGB.copy()
    params = RenderParams(width=32, height=32, num_frames=1, num_inference_steps=1)
    Engine.from_pretrained(tiny).render(image, params)
    assert image == RGB
    assert torch.is_grad_enabled()


def test_a_look_at_the_head_tells_size_and_format_but_decodes_nothing() -> None:
    buffer = BytesIO()
    RGB.save(buffer, "PNG")
    data = buffer.getvalue()
    check_picture(data[: len(data) // 2])  # cut in its pixels, which are not looked at
    with pytest.raises(ValueError, match=r"over 10$"):
        check_picture(data, max_pixels=10)
    with pytest.raises(ValueError, match="not a picture"):
        check_picture(b"nonsense")
