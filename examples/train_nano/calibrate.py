"""Ask the UNet for more movement than is asked of the model, since it moves half as far.

    python examples/train_nano/calibrate.py --recipe cpu --out runs/nano

Of `motion_bucket_id` and `fps` its embedding learns to say what it said of a camera of GAIN times
the speed, up to the fastest that the UNet has learned from. The rest of the UNet stays as it is.
"""

from copy import deepcopy
from functools import partial

import torch
from camera import BUCKETS, FPS, bucket_of, speed
from loop import Batch, generator, load_trained, train
from recipes import arguments
from torch import Tensor, nn
from train_unet import AUGMENTATION_DEVIATION, AUGMENTATION_MEAN
from weights import unet_config

from svd_engine.config import UNetConfig
from svd_engine.layers import sinusoid
from svd_engine.unet import UNet

GAIN = 1.5  # of 2, the last frames lost the picture
SHARPNESS = 4  # of the bend between GAIN and the fastest
ASKED_FPS = range(1, 31)  # more than FPS: both numbers tell of nothing but the speed
BATCH = 512


def faster(fps: Tensor, bucket: Tensor) -> tuple[Tensor, Tensor]:
    """The `fps` and `motion_bucket_id` of a faster camera, within what the UNet was taught."""
    fastest = speed(BUCKETS[-1], FPS[0])
    asked = GAIN * speed(bucket, fps)
    wanted = fastest * asked / (fastest**SHARPNESS + asked**SHARPNESS) ** (1 / SHARPNESS)
    fps = fps.clamp(FPS[0], FPS[-1])
    # Where no bucket is fast enough at this fps, the last one at a lower fps.
    fps = fps * (BUCKETS[-1] / bucket_of(wanted, fps)).clamp(max=1)
    return fps, bucket_of(wanted, fps)


def draw(step: int) -> Batch:
    """What may be asked for, and what is meant: (B, 3), as the UNet is told."""
    rng = generator(8, step)

    def integers(among: range) -> Tensor:
        return torch.randint(among[0], among[-1] + 1, (BATCH,), generator=rng).float()

    fps, bucket = integers(ASKED_FPS), integers(BUCKETS)
    augmentation = torch.randn(BATCH, generator=rng)
    # Twice as wide as in the UNet's training: what it says of any noise is to stay.
    strength = (AUGMENTATION_MEAN + 2 * AUGMENTATION_DEVIATION * augmentation).exp()
    meant_fps, meant_bucket = faster(fps, bucket)
    return {
        "asked": torch.stack([fps - 1, bucket, strength], dim=1),
        "meant": torch.stack([meant_fps - 1, meant_bucket, strength], dim=1),
    }


def loss(before: nn.Module, after: nn.Module, width: int, batch: Batch) -> Batch:
    """The mean squared error of the embedding."""
    asked, meant = (sinusoid(batch[name].flatten(), width) for name in ("asked", "meant"))
    error = after(asked.reshape(BATCH, -1)) - before(meant.reshape(BATCH, -1))
    return {"loss": error.pow(2).mean()}


def main() -> None:
    recipe, out, device = arguments(__doc__)
    unet = UNet(UNetConfig.model_validate(unet_config()))
    unet.load_state_dict(load_trained(out, "unet", recipe.unet.schedule.steps))
    before = unet.add_embedding.requires_grad_(False).to(device)
    after = deepcopy(before).requires_grad_(True)
    width = unet.config.addition_time_embed_dim
    networks = nn.ModuleDict({"unet": nn.ModuleDict({"add_embedding": after})})
    objective = partial(loss, before, after, width)
    train("calibration", out, networks, recipe.calibration, draw, objective)


if __name__ == "__main__":
    main()
