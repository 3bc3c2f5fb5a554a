"""A camera before a picture: pans, zooms, rolls, and parallax of a near layer over a far one.

The camera moves at constant speed along a random direction of (pan x, pan y, zoom, roll). How far a
pixel moves on average is set by the parameters that SVD takes: it grows with `motion_bucket_id`
and with the time between two frames, 1 / fps. So both must mean something to a model that learns
from these clips, and the direction is left to the seed.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from linear_code import CELL
from pictures import draw_picture, flip, integer, uniform
from torch import Generator, Tensor

REFERENCE_SPEED = 0.5  # pixels per frame, at motion bucket 127 and 7 fps
FPS, BUCKETS = range(4, 16), range(256)  # that films have
SUPERSAMPLING = 2  # pixels looked up along each side for one of the clip
Number = Any  # a number, or a tensor of them
FAR, NEAR = 0.7, 1.5  # depths: how much faster than the camera a layer passes


@dataclass(frozen=True)
class Clip:
    """What one training example shows, and the parameters that it was filmed with."""

    frames: Tensor  # (F, 3, H, W) in [-1, 1]
    displacement: Tensor  # (F, 2, H/8, W/8), of `displacement()`
    fps: int
    motion_bucket_id: int


@dataclass(frozen=True)
class Camera:
    """Movement per frame: pan in half heights of the picture, roll in radians, zoom's logarithm."""

    pan: tuple[float, float]
    zoom: float
    roll: float


def speed(motion_bucket_id: Number, fps: Number) -> Number:
    """Root mean square of the pixels' movement per frame, in pixels."""
    return REFERENCE_SPEED * (motion_bucket_id / 127) * (7 / fps)


def bucket_of(speed: Number, fps: Number) -> Number:
    """The motion bucket of a speed."""
    return 127 * (speed / REFERENCE_SPEED) * (fps / 7)


def draw_camera(distance: float, aspect: float, rng: Generator) -> Camera:
    """A random direction; pixels move by `distance` half heights per frame (rms)."""
    direction = torch.randn(4, generator=rng)
    if flip(rng, 0.5):  # one kind of movement alone
        kind = integer(rng, 0, 3)
        keep = torch.tensor([kind == 0, kind == 0, kind == 1, kind == 2])
        direction = direction * keep
    x, y, zoom, roll = direction.tolist()
    radius = ((1 + aspect**2) / 3) ** 0.5  # rms distance of a pixel from the centre
    length = (x**2 + y**2 + (zoom**2 + roll**2) * radius**2) ** 0.5
    scale = distance / max(length, 1e-6)
    return Camera((x * scale, y * scale), zoom * scale, roll * scale)


def draw_clip(
    photographs: list[Tensor], times: Tensor, size: tuple[int, int], rng: Generator
) -> Clip:
    """A picture, filmed.

    times: (F,) of each frame, in frames since the first. size: (height, width) in pixels.
    """
    fps = integer(rng, FPS[0], FPS[-1] + 1)
    bucket = integer(rng, BUCKETS[0], BUCKETS[-1] + 1)
    height, width = size
    camera = draw_camera(speed(bucket, fps) / (height / 2), width / height, rng)
    far = draw_picture(photographs, rng)
    # How much of the picture is in view: the same detail whatever the clip's size.
    scale = uniform(rng, 0.5, 1.0) * min(1.0, min(size) / 128)
    if flip(rng, 0.4):
        near, mask = draw_picture(photographs, rng), draw_mask(rng)
        far_clip = film(far, camera, times, size, scale, depth=FAR)
        near_clip = film(near, camera, times, size, scale, depth=NEAR)
        mask_clip = film(mask, camera, times, size, 1.0, depth=NEAR, padding="border")
        clip = torch.lerp(far_clip, near_clip, mask_clip)
        moved = torch.lerp(
            displacement(camera, times, size, FAR),
            displacement(camera, times, size, NEAR),
            F.avg_pool2d(mask_clip, CELL),
        )
    else:
        clip = film(far, camera, times, size, scale)
        moved = displacement(camera, times, size)
    return Clip(clip, moved, fps, bucket)


def draw_stills(photographs: list[Tensor], count: int, side: int, rng: Generator) -> Tensor:
    """(count, 3, side, side): first frames."""
    start = torch.zeros(1)
    clips = [draw_clip(photographs, start, (side, side), rng) for _ in range(count)]
    return torch.cat([clip.frames for clip in clips])


def draw_mask(rng: Generator) -> Tensor:
    """(1, 256, 256) in [0, 1]: where the near layer is: a blob, soft at its edge."""
    grid = torch.randn(1, 1, 5, 5, generator=rng)
    field = F.interpolate(grid, (256, 256), mode="bicubic", align_corners=True)[0]
    return ((field - uniform(rng, 0.3, 1.0)) * 40).sigmoid()


def film(
    picture: Tensor,
    camera: Camera,
    times: Tensor,
    size: tuple[int, int],
    scale: float,
    depth: float = 1.0,
    padding: str = "reflection",
) -> Tensor:
    """(F, C, H, W): the picture as the camera moves; the first frame is where it starts.

    scale: the part of the picture that is in view. Each pixel is the mean of SUPERSAMPLING^2 looked
    up, so that all frames are as sharp.
    """
    height, width = size
    seen, _ = views(camera, times, SUPERSAMPLING * height, SUPERSAMPLING * width, depth)
    # From half heights of the view to grid_sample's half sides of the picture.
    side = scale * min(picture.shape[1], picture.shape[2] * height / width)
    seen = seen * torch.tensor([side / picture.shape[2], side / picture.shape[1]])
    source = picture.expand(len(times), *picture.shape)
    sampled = F.grid_sample(
        source, seen, mode="bilinear", padding_mode=padding, align_corners=False
    )
    return F.avg_pool2d(sampled, SUPERSAMPLING)


def displacement(
    camera: Camera, times: Tensor, size: tuple[int, int], depth: float = 1.0
) -> Tensor:
    """(F, 2, H/8, W/8): x and y to where the first frame has what is here, in pixels."""
    height, width = size
    seen, first = views(camera, times, height // CELL, width // CELL, depth)
    return (seen - first).permute(0, 3, 1, 2) * (height / 2)


def views(
    camera: Camera, times: Tensor, rows: int, columns: int, depth: float
) -> tuple[Tensor, Tensor]:
    """Where each frame's points look: (F, rows, columns, 2), and where the first frame's do.

    x and y, in half heights of the view.
    """
    y = (2 * torch.arange(rows) + 1) / rows - 1
    x = ((2 * torch.arange(columns) + 1) / columns - 1) * columns / rows
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
    turn, grow = camera.roll * times, (camera.zoom * times).exp()
    rotation = torch.stack(
        [torch.stack([turn.cos(), -turn.sin()], -1), torch.stack([turn.sin(), turn.cos()], -1)], -2
    )
    pan = depth * torch.tensor(camera.pan) * times[:, None]
    seen = torch.einsum("fij,hwj->fhwi", rotation * grow[:, None, None], grid)
    return seen + pan[:, None, None], grid
