"""The lines of each known mistake in Python: as ports have them, and as they should be.

They are written with torch and numpy, under the names of diffusers' pipeline. Functions that are
neither of torch nor of diffusers, such as `clip_pixels`, stand for the port's own.
"""

from collections.abc import Mapping

PYTHON: Mapping[str, tuple[str, str]] = {  # by the mistake's name: wrong, right
    "clip_resized_first": (
        """\
resized = image.resize((width, height), Image.Resampling.LANCZOS)
pixels = clip_pixels(resized)""",
        """\
resized = image.resize((width, height), Image.Resampling.LANCZOS)  # for the VAE alone
pixels = clip_pixels(image)""",
    ),
    "clip_not_blurred": (
        'pixels = F.interpolate(pixels, (224, 224), mode="bicubic", align_corners=True)',
        """\
sigmas = [max((side / 224 - 1) / 2, 0.001) for side in pixels.shape[-2:]]
sizes = [int(max(4 * sigma, 3)) // 2 * 2 + 1 for sigma in sigmas]
pixels = gaussian_blur(pixels, sizes, sigmas)  # reflecting the edges
pixels = F.interpolate(pixels, (224, 224), mode="bicubic", align_corners=True)""",
    ),
    "clip_nearest": (
        'pixels = F.interpolate(pixels, (224, 224), mode="nearest")',
        'pixels = F.interpolate(pixels, (224, 224), mode="bicubic", align_corners=True)',
    ),
    "clip_not_normalized": (
        "pixels = (pixels + 1) / 2",
        """\
mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
pixels = ((pixels + 1) / 2 - mean) / std""",
    ),
    "noise_order": (
        """\
latents = torch.randn(latents_shape, generator=generator)
noise = torch.randn(pixels.shape, generator=generator)""",
        """\
noise = torch.randn(pixels.shape, generator=generator)
latents = torch.randn(latents_shape, generator=generator)""",
    ),
    "noise_on_latents": (
        """\
image_latents = vae.encode(pixels).latent_dist.mode()
noise = torch.randn(image_latents.shape, generator=generator)
image_latents = image_latents + noise_aug_strength * noise""",
        """\
noise = torch.randn(pixels.shape, generator=generator)
pixels = pixels + noise_aug_strength * noise
image_latents = vae.encode(pixels).latent_dist.mode()""",
    ),
    "posterior_sampled": (
        "image_latents = vae.encode(pixels).latent_dist.sample(generator)",
        "image_latents = vae.encode(pixels).latent_dist.mode()",
    ),
    "image_latent_scaled": (
        "image_latents = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor",
        "image_latents = vae.encode(pixels).latent_dist.mode()",
    ),
    "fps_not_reduced": (
        "added_time_ids = torch.tensor([[fps, motion_bucket_id, noise_aug_strength]])",
        "added_time_ids = torch.tensor([[fps - 1, motion_bucket_id, noise_aug_strength]])",
    ),
    "time_ids_order": (
        "added_time_ids = torch.tensor([[motion_bucket_id, fps - 1, noise_aug_strength]])",
        "added_time_ids = torch.tensor([[fps - 1, motion_bucket_id, noise_aug_strength]])",
    ),
    "guidance_per_step": (
        """\
guidance = torch.linspace(min_guidance_scale, max_guidance_scale, num_inference_steps)
noise_pred = uncond + guidance[i] * (cond - uncond)""",
        """\
guidance = torch.linspace(min_guidance_scale, max_guidance_scale, num_frames)
noise_pred = uncond + guidance[None, :, None, None, None] * (cond - uncond)""",
    ),
    "karras_off": (
        """\
betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
kept = (1 - betas).cumprod(0).numpy()
at = np.linspace(999, 0, num_inference_steps)
sigmas = np.append(np.interp(at, np.arange(1000), ((1 - kept) / kept) ** 0.5), 0.0)""",
        """\
ramp = np.linspace(0, 1, num_inference_steps)
start, end = sigma_max ** (1 / 7), sigma_min ** (1 / 7)
sigmas = np.append((start + ramp * (end - start)) ** 7, 0.0)""",
    ),
    "timestep_minus_ln": ("timestep = -sigma.log()", "timestep = 0.25 * sigma.log()"),
    "initial_scale_missing": (
        "latents = noise",
        """\
latents = noise * (sigmas.max() ** 2 + 1) ** 0.5
# where timestep_spacing is not "leading": latents = noise * sigmas.max()""",
    ),
    "image_latents_first": (
        "latent_model_input = torch.cat([image_latents, latent_model_input], dim=2)",
        "latent_model_input = torch.cat([latent_model_input, image_latents], dim=2)",
    ),
    "unconditional_picture": (
        "image_latents = torch.cat([image_latents, image_latents])",
        "image_latents = torch.cat([torch.zeros_like(image_latents), image_latents])",
    ),
    "unconditional_embedding": (
        "image_embeddings = torch.cat([image_embeddings, image_embeddings])",
        "image_embeddings = torch.cat([torch.zeros_like(image_embeddings), image_embeddings])",
    ),
    "sine_first": (
        "emb = torch.cat([torch.sin(emb), torch.cos(emb)], dim=-1)",
        "emb = torch.cat([torch.cos(emb), torch.sin(emb)], dim=-1)",
    ),
    "norm_eps": (
        """\
resnet = SpatioTemporalResBlock(c_in, c_out, temb_channels, eps=1e-5)
norm = nn.GroupNorm(32, channels, eps=1e-5)  # of the transformer""",
        """\
eps = 1e-6 if goes_up or (goes_down and has_attention) else 1e-5
resnet = SpatioTemporalResBlock(c_in, c_out, temb_channels, eps=eps)
norm = nn.GroupNorm(32, channels, eps=1e-6)  # of the transformer""",
    ),
    "halves_swapped": (
        "cond, uncond = noise_pred.chunk(2)",
        "uncond, cond = noise_pred.chunk(2)",
    ),
    "epsilon_for_v": (
        "denoised = sample - sigma * model_output",
        """\
denoised = model_output * (-sigma / (sigma**2 + 1) ** 0.5)
denoised = denoised + sample / (sigma**2 + 1)""",
    ),
    "decode_not_unscaled": (
        "frames = vae.decode(latents, num_frames=num_frames).sample",
        """\
latents = latents / vae.config.scaling_factor
frames = vae.decode(latents, num_frames=num_frames).sample""",
    ),
    "decoder_blend": (
        """\
alpha = torch.sigmoid(mix_factor)
x = alpha * x_spatial + (1 - alpha) * x_temporal""",
        """\
alpha = 1 - torch.sigmoid(mix_factor)  # in the VAE's decoder alone
x = alpha * x_spatial + (1 - alpha) * x_temporal""",
    ),
    "frames_truncated": (
        "frames = ((frames / 2 + 0.5).clamp(0, 1) * 255).to(torch.uint8)",
        "frames = ((frames / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)",
    ),
}
