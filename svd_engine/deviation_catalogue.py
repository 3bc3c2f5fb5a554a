"""The known mistakes in ports of SVD: their names, what is wrong, and what is right.

`RenderParams.deviations` takes these names, and `deviations` makes the mistakes. This module needs
no torch, so that the farm can check a request without an engine.
"""

from dataclasses import dataclass

from svd_engine.nearest import did_you_mean, in_sentences
from svd_engine.values import listed


@dataclass(frozen=True)
class Deviation:
    """A mistake that ports are known to make."""

    name: str
    wrong: str  # what a port with this mistake does
    right: str  # what the reference does
    where: str  # the correct code in this engine, as module:function
    shows_in: tuple[str, ...]  # the tensors of a trace that it changes directly, first to last
    review: bool = False  # found in the code review that this project grew from


CATALOGUE = {
    deviation.name: deviation
    for deviation in (
        Deviation(
            "clip_resized_first",
            "CLIP is fed the picture as it was resized for the VAE",
            "CLIP is fed the picture itself",
            "stages:encode",
            ("clip.pixels",),
        ),
        Deviation(
            "clip_not_blurred",
            "the picture is shrunk for CLIP without a blur against aliasing",
            "a Gaussian blur comes first, the stronger the more a side exceeds 224",
            "picture_pixels:blur",
            ("clip.pixels",),
        ),
        Deviation(
            "clip_nearest",
            "the picture is shrunk for CLIP by nearest neighbour",
            "bicubic, with align_corners",
            "picture_pixels:shrink",
            ("clip.pixels",),
            review=True,
        ),
        Deviation(
            "clip_not_normalized",
            "CLIP's pixels are left in [0, 1]",
            "CLIP's mean is subtracted, then they are divided by its standard deviation",
            "picture_pixels:clip_pixels",
            ("clip.pixels",),
        ),
        Deviation(
            "noise_order",
            "the latents' noise is drawn before the picture's",
            "the picture's noise is drawn first, from the same generator",
            "conditioning:draw_noise",
            ("image.noise", "latents.init"),
        ),
        Deviation(
            "noise_on_latents",
            "the augmentation noise is added to the picture's latent",
            "it is added to the picture's pixels, before the VAE",
            "conditioning:augment",
            ("image.augmented", "image.latent"),
            review=True,
        ),
        Deviation(
            "posterior_sampled",
            "the picture's latent is drawn from the VAE's posterior",
            "it is the posterior's mean",
            "conditioning:encode_latent",
            ("image.latent",),
        ),
        Deviation(
            "image_latent_scaled",
            "the picture's latent is multiplied by the scaling factor (0.18215)",
            "the UNet was trained on it unscaled",
            "conditioning:encode_latent",
            ("image.latent",),
        ),
        Deviation(
            "fps_not_reduced",
            "fps goes into the time ids as it is",
            "the model was trained on fps - 1",
            "conditioning:time_ids",
            ("time_ids",),
            review=True,
        ),
        Deviation(
            "time_ids_order",
            "the time ids are in another order",
            "fps - 1, motion_bucket_id, noise_aug_strength",
            "conditioning:time_ids",
            ("time_ids",),
        ),
        Deviation(
            "guidance_per_step",
            "there is a guidance scale for each step",
            "there is one for each frame, the same at every step",
            "schedule:guidance_scales",
            ("guidance", "step.guided"),
            review=True,
        ),
        Deviation(
            "karras_off",
            "the sigmas are those of the training schedule",
            "Karras' with rho 7, between the checkpoint's sigma_min and sigma_max",
            "schedule:karras_sigmas",
            ("sigmas",),
        ),
        Deviation(
            "timestep_minus_ln",
            "the UNet is given -ln(sigma)",
            "0.25 ln(sigma)",
            "schedule:make_timesteps",
            ("timesteps",),
            review=True,
        ),
        Deviation(
            "initial_scale_missing",
            "denoising starts from unit noise",
            "the noise is multiplied by sqrt(sigma_max^2 + 1), or by sigma_max",
            "schedule:initial_latents",
            ("latents.init",),
        ),
        Deviation(
            "image_latents_first",
            "the picture's latents come before the noise latents",
            "along the channels: the noise latents, then the picture's",
            "conditioning:join",
            ("step.model_input",),
            review=True,
        ),
        Deviation(
            "unconditional_picture",
            "the picture's latents stay in the unconditional half",
            "they are zero there",
            "conditioning:pair",
            ("step.model_input",),
        ),
        Deviation(
            "unconditional_embedding",
            "the picture's embedding stays in the unconditional half",
            "it is zero there",
            "conditioning:pair",
            ("step.model_output",),
        ),
        Deviation(
            "sine_first",
            "sinusoidal embeddings have their sines first",
            "cosines first",
            "layers:sinusoid",
            ("step.model_output",),
        ),
        Deviation(
            "norm_eps",
            "all group norms of the UNet have an epsilon of 1e-5",
            "1e-6 in the blocks with cross-attention, in the transformers, and on the way up",
            "unet:DownBlock",
            ("step.model_output",),
        ),
        Deviation(
            "halves_swapped",
            "the two halves of the prediction are swapped",
            "the unconditional one is first",
            "schedule:guide",
            ("step.guided",),
        ),
        Deviation(
            "epsilon_for_v",
            "the prediction is read as epsilon",
            "it is v: denoised = x / (sigma^2 + 1) - v sigma / sqrt(sigma^2 + 1)",
            "schedule:denoised",
            ("step.latents",),
        ),
        Deviation(
            "decode_not_unscaled",
            "the latents are decoded as they are",
            "they are divided by the scaling factor (0.18215) first",
            "recipe:unscale",
            ("decode.latents",),
        ),
        Deviation(
            "decoder_blend",
            "the decoder's blend is the UNet's: a spatial + (1 - a) temporal",
            "it is switched: (1 - a) spatial + a temporal",
            "layers:Blend",
            ("frames",),
        ),
        Deviation(
            "frames_truncated",
            "frames are truncated to whole levels",
            "they are rounded, half to even",
            "recipe:to_uint8",
            ("frames.uint8",),
        ),
    )
}

SETS = {"legacy-v1": tuple(name for name, known in CATALOGUE.items() if known.review)}


def split_names(given: object) -> object:
    """The names in a text, joined by `+` or commas. Anything but a text is returned unchanged."""
    if isinstance(given, str) and not given.strip().startswith("["):
        given = given.replace("+", ",")
    names = listed(given)
    return [name for name in names if name] if isinstance(given, str) else names


def checked_names(given: tuple[str, ...]) -> tuple[str, ...]:
    """The names in the catalogue's order, with sets replaced by their members.

    Raises ValueError for a name that is neither a deviation nor a set.
    """
    names = {member for name in given for member in SETS.get(name, (name,))}
    unknown = sorted(names - CATALOGUE.keys())
    if unknown:
        near = did_you_mean(unknown[0], (*CATALOGUE, *SETS))
        known = f"There are {', '.join(CATALOGUE)}, and the set {', '.join(SETS)}"
        raise ValueError(in_sentences([f"Unknown deviation {unknown[0]!r}{near}", known]))
    return tuple(name for name in CATALOGUE if name in names)
