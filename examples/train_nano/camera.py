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
from pictures import pick
from torch import Generator, Tensor

REFERENCE_SPEED = 0.5  # pixels per frame, at motion bucket 127 and 7 fps
FPS, BUCKETS = range(4, 16), range(256)  # that films have
SUPERSAMPLING = 2  # pixels looked up along each side for one of a film
Number = Any  # a number, or a tensor of them
FAR, NEAR = 0.7, 1.5  # depths: how much faster than the camera a layer passes
LAYERED = 0.4  # the part of films that have a near layer
# Which of (pan x, pan y, zoom, roll) a camera does: half of them one kind of movement alone.
KINDS = ((1, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1))


@dataclass(frozen=True)
class Films:
    """N films, and what they were filmed with."""

    frames: Tensor  # (N, F, 3, H, W) in [-1, 1]
    displacement: Tensor  # (N, F, 2, H/8, W/8), of `displacement()`
    fps: Tensor  # (N,)
    motion_bucket_id: Tensor  # (N,)


@dataclass(frozen=True)
class Cameras:
    """N cameras' movement per frame."""

    pan: Tensor  # (N, 2), in half heights of the view
    zoom: Tensor  # (N,), logarithm
    roll: Tensor  # (N,), in radians


@dataclass(frozen=True)
class View:
    """What of N square pictures is in view at first."""

    scale: Tensor  # (N,): the part of their side
    centre: Tensor  # (N, 2): x and y, in half sides


def speed(motion_bucket_id: Number, fps: Number) -> Number:
    """Root mean square of the pixels' movement per frame, in pixels."""
    return REFERENCE_SPEED * (motion_bucket_id / 127) * (7 / fps)


def draw_cameras(distance: Tensor, aspect: float, rng: Generator) -> Cameras:
    """Random directions; pixels move by `distance` (N,) half heights per frame (rms)."""
    count, device = len(distance), rng.device
    kind = torch.randint(len(KINDS), (count,), generator=rng, device=device)
    does = torch.tensor(KINDS, device=device)[kind]
    direction = torch.randn(count, 4, generator=rng, device=device) * does
    radius = ((1 + aspect**2) / 3) ** 0.5  # rms distance of a pixel from the centre
    weights = torch.tensor([1, 1, radius, radius], device=device)
    length = (direction * weights).norm(dim=1).clamp(min=1e-6)
    moves = direction * (distance / length)[:, None]
    return Cameras(moves[:, :2], moves[:, 2], moves[:, 3])


def draw_films(album: Tensor, times: Tensor, size: tuple[int, int], rng: Generator) -> Films:
    """Some of the pictures, filmed.

    album: (P, 3, S, S), uint8. times: (N, F) of each frame, in frames since the first. size:
    (height, width) in pixels. All are on the device of rng.
    """
    count, (height, width), device = len(times), size, rng.device
    fps = torch.randint(FPS[0], FPS[-1] + 1, (count,), generator=rng, device=device)
    bucket = torch.randint(BUCKETS[0], BUCKETS[-1] + 1, (count,), generator=rng, device=device)
    cameras = draw_cameras(speed(bucket, fps) / (height / 2), width / height, rng)
    far, near = (pick(album, count, rng) for _ in range(2))
    view = draw_view(count, size, rng)
    masks, whole = draw_masks(count, rng), View(torch.ones_like(view.scale), 0 * view.centre)
    fast = torch.full_like(view.scale, NEAR)
    # A mask is 0 all over where there is one layer alone; it then moves as the camera says.
    slow = torch.where(masks.amax((1, 2, 3)) > 0, FAR, 1.0)
    covered = film(masks, cameras, times, size, whole, fast, padding="border")
    frames = torch.lerp(
        film(far, cameras, times, size, view, slow),
        film(near, cameras, times, size, view, fast),
        covered,
    )
    moved = torch.lerp(
        displacement(cameras, times, size, slow),
        displacement(cameras, times, size, fast),
        F.avg_pool2d(covered.flatten(0, 1), CELL).unflatten(0, times.shape),
    )
    return Films(frames, moved, fps, bucket)


def draw_stills(album: Tensor, count: int, side: int, rng: Generator) -> Tensor:
    """(count, 3, side, side): first frames."""
    start = torch.zeros(count, 1, device=rng.device)
    return draw_films(album, start, (side, side), rng).frames[:, 0]


def draw_view(count: int, size: tuple[int, int], rng: Generator) -> View:
    """Anywhere in the picture, with the same detail whatever the film's size."""
    chance = torch.rand(count, 3, generator=rng, device=rng.device)
    scale = (0.5 + 0.5 * chance[:, 0]) * min(1.0, min(size) / 128)
    height, width = size
    seen = torch.tensor([min(1, width / height), min(1, height / width)], device=rng.device)
    return View(scale, (2 * chance[:, 1:] - 1) * (1 - scale[:, None] * seen))


def draw_masks(count: int, rng: Generator) -> Tensor:
    """(count, 1, 128, 128) in [0, 1]: where the near layer is: blobs, soft at their edges."""
    grid = torch.randn(count, 1, 5, 5, generator=rng, device=rng.device)
    fields = F.interpolate(grid, (128, 128), mode="bicubic", align_corners=True)
    chance = torch.rand(2, count, 1, 1, 1, generator=rng, device=rng.device)
    return ((fields - (0.3 + 0.7 * chance[0])) * 40).sigmoid() * (chance[1] < LAYERED)


def film(
    pictures: Tensor,
    cameras: Cameras,
    times: Tensor,
    size: tuple[int, int],
    view: View,
    depth: Tensor,
    padding: str = "reflection",
) -> Tensor:
    """(N, F, C, H, W): N square pictures as the cameras move, at depths (N,).

    Each pixel is the mean of SUPERSAMPLING^2 looked up, so that all frames are as sharp.
    """
    height, width = size
    seen, _ = views(cameras, times, SUPERSAMPLING * height, SUPERSAMPLING * width, depth)
    # From half heights of the view to half sides of the picture.
    side = view.scale * min(1, height / width)
    seen = seen * side.view(-1, 1, 1, 1, 1) + view.centre.view(-1, 1, 1, 1, 2)
    sampled = F.grid_sample(
        pictures, seen.flatten(1, 2), mode="bilinear", padding_mode=padding, align_corners=False
    )
    return F.avg_pool2d(sampled, SUPERSAMPLING).unflatten(2, (-1, height)).transpose(1, 2)


def displacement(cameras: Cameras, times: Tensor, size: tuple[int, int], depth: Tensor) -> Tensor:
    """(N, F, 2, H/8, W/8): x and y to where the first frame has what is here, in pixels."""
    height, width = size
    seen, first = views(cameras, times, height // CELL, width // CELL, depth)
    return (seen - first).movedim(-1, 2) * (height / 2)


def views(
    cameras: Cameras, times: Tensor, rows: int, columns: int, depth: Tensor
) -> tuple[Tensor, Tensor]:
    """Where each frame's points look: (N, F, rows, columns, 2), and where the first frame's do.

    x and y, in half heights of the view.
    """
    y = (2 * torch.arange(rows, device=times.device) + 1) / rows - 1
    x = ((2 * torch.arange(columns, device=times.device) + 1) / columns - 1) * columns / rows
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
    turn, grow = cameras.roll[:, None] * times, (cameras.zoom[:, None] * times).exp()
    rows_of = [turn.cos(), -turn.sin()], [turn.sin(), turn.cos()]
    rotation = torch.stack([torch.stack(row, -1) for row in rows_of], -2) * grow[..., None, None]
    seen = torch.einsum("nfij,hwj->nfhwi", rotation, grid)
    pan = (depth[:, None] * cameras.pan)[:, None] * times[..., None]
    return seen + pan[:, :, None, None], grid
