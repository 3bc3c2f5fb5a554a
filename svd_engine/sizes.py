"""Sizes that all checkpoints of Stable Video Diffusion have in common. No torch."""

LATENT_SCALE = 8  # pixels per latent pixel along each side; a frame's sides are multiples of it
LATENT_CHANNELS = 4  # of a latent pixel in the published checkpoints
PUBLISHED_VAE_CHANNELS = (128, 256, 512, 512)  # of the layers, from full size to the latents' size
BYTES_PER_NUMBER = {"float32": 4, "float16": 2, "bfloat16": 2}


def largest_side(pixels: int) -> int:
    """The largest allowed side of at most this many pixels, or the smallest allowed side."""
    return max(LATENT_SCALE, pixels // LATENT_SCALE * LATENT_SCALE)


def decoded_frame_bytes(width: int, height: int, dtype: str) -> int:
    """The memory that an exact decode holds for each frame: the decoder's widest tensor, twice.

    This is for the published VAE. A test compares it with `memory_plan`, which needs torch.
    """
    return 2 * PUBLISHED_VAE_CHANNELS[0] * width * height * BYTES_PER_NUMBER[dtype]
