"""Fits an opened picture into the frame, and makes the input tensors of the VAE and of CLIP.

`picture_files` opens the file. A picture may have 64 million pixels, each of 12 bytes in float32,
so the tensors are made band by band, and nothing as large as the picture is ever copied.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from svd_engine.picture_files import MAX_PIXELS, check_size

CLIP_SIDE = 224
BAND_PIXELS = 2**20  # processed at once: 12 MB of float32

Fit = Literal["stretch", "crop", "pad"]
# Functions of a side's length. Kernel returns the blur's kernel, of odd length. Taps returns the
# positions that each of CLIP's 224 pixels is computed from, and their weights, both (224, taps).
Kernel = Callable[[int], Tensor]
Taps = Callable[[int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class View:
    """A rectangle of a picture. It may extend beyond the picture's edges, and is black there."""

    image: Image.Image  # RGB
    left: int
    top: int
    width: int
    height: int

    @classmethod
    def whole(cls, image: Image.Image) -> "View":
        return cls(image, 0, 0, *image.size)

    def draw(self) -> Image.Image:
        """Copy the view into a picture of its own."""
        return self._crop(0, self.height, 0, self.width)

    def shown(self) -> tuple[int, int, int, int]:
        """The picture's part of the view: left, top, right, bottom, in the view's coordinates."""
        right = min(self.width, self.image.width - self.left)
        bottom = min(self.height, self.image.height - self.top)
        return max(0, -self.left), max(0, -self.top), right, bottom

    def bands(self, left: int, right: int) -> Iterator[tuple[int, Image.Image]]:
        """Yield bands of rows between two columns, each with the number of its first row.

        A band has at most BAND_PIXELS pixels, or a single row. Rows beyond the picture are left
        out.
        """
        rows = max(1, BAND_PIXELS // (right - left))
        _, first, _, stop = self.shown()
        for start in range(first, stop, rows):
            yield start, self._crop(start, min(start + rows, stop), left, right)

    def _crop(self, start: int, stop: int, left: int, right: int) -> Image.Image:
        x, y = self.left, self.top
        return self.image.crop((x + left, y + start, x + right, y + stop))


def view_picture(image: Image.Image, width: int, height: int, fit: Fit) -> View:
    """A view in the frame's shape: the picture's centre (`crop`), or all of it with bars (`pad`).

    With `stretch` the view is the picture, and scaling changes its shape. Nothing is scaled yet,
    and bars take no memory before the scaling.
    """
    w, h = image.size
    if fit == "stretch" or w * height == h * width:
        return View.whole(image)
    wide = w * height > h * width
    # The view's sides if it is as high as the picture, and if it is as wide.
    tall, long = (round(h * width / height), h), (w, round(w * height / width))
    if fit == "crop":
        new_w, new_h = (max(2, side) for side in (tall if wide else long))
        return View(image, (w - new_w) // 2, (h - new_h) // 2, new_w, new_h)
    new_w, new_h = long if wide else tall
    return View(image, -((new_w - w) // 2), -((new_h - h) // 2), new_w, new_h)


def fit_picture(image: Image.Image, width: int, height: int, fit: Fit) -> Image.Image:
    """Draw `view_picture` for a reference without views. Raises ValueError if it is too large."""
    view = view_picture(image, width, height, fit)
    if (view.width, view.height) == image.size:
        return image
    check_size(view.width, view.height)
    return view.draw()


def vae_pixels(picture: Image.Image | View, width: int, height: int) -> Tensor:
    """The VAE's input before noise: (1, 3, height, width), float32 in [-1, 1].

    Bit for bit what Pillow's Lanczos gives. Like Pillow, it resizes the rows first and then the
    columns, except for a picture that becomes wider and less high. If a padded view would exceed
    the limit on a picture's pixels, only the picture is scaled, to whole pixels, and the bars are
    added later.
    """
    view = picture if isinstance(picture, View) else View.whole(picture)
    if view.width * view.height > MAX_PIXELS:
        return _to_tensor(_pad_scaled(view, width, height))
    if width > view.width and height < view.height:
        return _to_tensor(view.draw().resize((width, height), Image.Resampling.LANCZOS))
    narrow = Image.new("RGB", (width, view.height))
    for start, band in view.bands(0, view.width):
        narrow.paste(band.resize((width, band.height), Image.Resampling.LANCZOS), (0, start))
    return _to_tensor(narrow.resize((width, height), Image.Resampling.LANCZOS))


def blur(side: int) -> Tensor:
    """The kernel of the Gaussian blur against aliasing, which grows with a side's length."""
    sigma = max((side / CLIP_SIDE - 1.0) / 2.0, 0.001)
    size = int(max(4.0 * sigma, 3)) // 2 * 2 + 1  # made odd
    offsets = torch.arange(size, dtype=torch.float32) - size // 2
    kernel = torch.exp(-(offsets**2) / (2 * torch.tensor(sigma) ** 2))
    return kernel / kernel.sum()


def shrink(side: int) -> tuple[Tensor, Tensor]:
    """The taps of bicubic scaling to CLIP's side, as `F.interpolate` with `align_corners=True`.

    Positions are rounded to float32 as they are there, which matters on long sides.
    """
    where = torch.arange(CLIP_SIDE, dtype=torch.float32) * (
        torch.tensor(side - 1, dtype=torch.float32) / (CLIP_SIDE - 1)
    )
    floor = where.floor().clamp(max=side - 1)
    t = (where - floor).clamp(0, 1)[:, None]
    near = torch.cat([t, 1 - t], 1)
    near = ((1.25 * near) - 2.25) * near * near + 1
    far = torch.cat([t + 1, 2 - t], 1)
    far = ((-0.75 * far + 3.75) * far - 6.0) * far + 3.0
    weights = torch.cat([far[:, :1], near, far[:, 1:]], 1)
    positions = floor.long()[:, None] + torch.arange(-1, 3)
    return positions.clamp(0, side - 1), weights


def clip_pixels(
    picture: Image.Image | View,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    blur: Kernel = blur,
    shrink: Taps = shrink,
) -> Tensor:
    """CLIP's input: the picture, squashed to a square and normalized, (1, 3, 224, 224), float32.

    Blur and bicubic scaling are both weighted sums along a side. They are merged into one sum,
    along the rows and then along the columns, and computed only for the pixels that CLIP has.
    """
    view = picture if isinstance(picture, View) else View.whole(picture)
    across, down = (_sums(side, blur, shrink) for side in (view.width, view.height))
    narrow = torch.empty(3, view.height, CLIP_SIDE)
    for column, (_, weights) in enumerate(across):
        narrow[:, :, column] = -weights.sum()  # black, unless a band covers it
    left, _, right, _ = view.shown()
    for start, band in view.bands(left, right):
        pixels = _to_tensor(band)[0]
        for column, (first, weights) in enumerate(across):
            begin, end = max(first, left), min(first + len(weights), right)
            if begin < end:
                seen = weights[begin - first : end - first]
                black = seen.sum() - weights.sum()
                window = pixels[:, :, begin - left : end - left]
                narrow[:, start : start + band.height, column] = window @ seen + black
    x = torch.empty(1, 3, CLIP_SIDE, CLIP_SIDE)
    for row, (first, weights) in enumerate(down):
        x[0, :, row] = weights @ narrow[:, first : first + len(weights)]
    x = (x + 1.0) / 2.0
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def _sums(side: int, blur: Kernel, shrink: Taps) -> list[tuple[int, Tensor]]:
    """For each of CLIP's pixels along a side: the first pixel that it sums, and the weights."""
    kernel = blur(side).double().numpy()
    offsets = np.arange(len(kernel)) - len(kernel) // 2
    positions, factors = (part.numpy() for part in shrink(side))
    sums = []
    for at, factor in zip(positions, factors.astype(np.float64), strict=True):
        index = np.abs(at[:, None] + offsets)  # reflected at the edges
        index = np.where(index > side - 1, 2 * (side - 1) - index, index)
        first = int(index.min())
        weights = np.bincount((index - first).ravel(), (factor[:, None] * kernel).ravel())
        sums.append((first, torch.from_numpy(weights).float()))
    return sums


def _pad_scaled(view: View, width: int, height: int) -> Image.Image:
    left, top, right, bottom = view.shown()
    across, down = width / view.width, height / view.height
    size = max(1, round((right - left) * across)), max(1, round((bottom - top) * down))
    frame = Image.new("RGB", (width, height))
    small = view.image.resize(size, Image.Resampling.LANCZOS)
    frame.paste(small, ((width - size[0]) // 2, (height - size[1]) // 2))
    return frame


def _to_tensor(image: Image.Image) -> Tensor:
    """(1, 3, H, W), float32 in [-1, 1]."""
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255.0
    return 2.0 * x - 1.0
