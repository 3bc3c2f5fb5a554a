"""The lines of each known mistake in Rust: as ports have them, and as they should be.

They are written with candle (`candle_core`, `candle_nn`) and the crate `image`. Functions that are
of neither, such as `clip_pixels`, stand for the port's own.
"""

from collections.abc import Mapping

RUST: Mapping[str, tuple[str, str]] = {  # by the mistake's name: wrong, right
    "clip_resized_first": (
        """\
let resized = image.resize_exact(width, height, FilterType::Lanczos3);
let pixels = clip_pixels(&resized)?;""",
        """\
let resized = image.resize_exact(width, height, FilterType::Lanczos3); // for the VAE alone
let pixels = clip_pixels(&image)?;""",
    ),
    "clip_not_blurred": (
        "let pixels = bicubic(&pixels, 224, 224)?;",
        """\
let sigma = |side: usize| ((side as f64 / 224. - 1.) / 2.).max(0.001);
let size = |sigma: f64| (4. * sigma).max(3.) as usize / 2 * 2 + 1; // of the kernel
let pixels = gaussian_blur(&pixels, sigma(height), sigma(width), size)?; // reflecting the edges
let pixels = bicubic(&pixels, 224, 224)?;""",
    ),
    "clip_nearest": (
        "let pixels = pixels.upsample_nearest2d(224, 224)?;",
        """\
// down (224, height), across (224, width): bicubic weights, a = -0.75, align_corners
let pixels = down.broadcast_matmul(&pixels)?.broadcast_matmul(&across.t()?)?;""",
    ),
    "clip_not_normalized": (
        "let pixels = pixels.affine(0.5, 0.5)?;",
        """\
let mean = Tensor::new(&[0.48145466f32, 0.4578275, 0.40821073], device)?.reshape((3, 1, 1))?;
let std = Tensor::new(&[0.26862954f32, 0.26130258, 0.27577711], device)?.reshape((3, 1, 1))?;
let pixels = pixels.affine(0.5, 0.5)?.broadcast_sub(&mean)?.broadcast_div(&std)?;""",
    ),
    "noise_order": (
        """\
let latents = Tensor::randn(0f32, 1., (1, frames, 4, height / 8, width / 8), device)?;
let noise = Tensor::randn(0f32, 1., (1, 3, height, width), device)?;""",
        """\
let noise = Tensor::randn(0f32, 1., (1, 3, height, width), device)?;
let latents = Tensor::randn(0f32, 1., (1, frames, 4, height / 8, width / 8), device)?;""",
    ),
    "noise_on_latents": (
        """\
let image_latents = encode_mean(&vae, &pixels)?;
let noise = image_latents.randn_like(0., 1.)?;
let image_latents = (image_latents + (noise * noise_aug_strength)?)?;""",
        """\
let noise = pixels.randn_like(0., 1.)?;
let pixels = (pixels + (noise * noise_aug_strength)?)?;
let image_latents = encode_mean(&vae, &pixels)?;""",
    ),
    "posterior_sampled": (
        "let image_latents = vae.encode(&pixels)?.sample()?;",
        """\
let moments = quant_conv.forward(&encoder.forward(&pixels)?)?;
let image_latents = moments.narrow(1, 0, 4)?; // the mean; the log variance follows""",
    ),
    "image_latent_scaled": (
        "let image_latents = (encode_mean(&vae, &pixels)? * 0.18215)?;",
        "let image_latents = encode_mean(&vae, &pixels)?;",
    ),
    "fps_not_reduced": (
        "let ids = Tensor::new(&[[fps, motion_bucket_id, noise_aug_strength]], device)?;",
        "let ids = Tensor::new(&[[fps - 1., motion_bucket_id, noise_aug_strength]], device)?;",
    ),
    "time_ids_order": (
        "let ids = Tensor::new(&[[motion_bucket_id, fps - 1., noise_aug_strength]], device)?;",
        "let ids = Tensor::new(&[[fps - 1., motion_bucket_id, noise_aug_strength]], device)?;",
    ),
    "guidance_per_step": (
        """\
let scale = lowest + (highest - lowest) * step as f64 / (steps - 1) as f64;
let guided = (&uncond + ((&cond - &uncond)? * scale)?)?;""",
        """\
let between = |frame: usize| frame as f64 / (frames - 1).max(1) as f64;
let scales = (0..frames).map(|frame| (lowest + (highest - lowest) * between(frame)) as f32);
let scales = Tensor::from_iter(scales, device)?.reshape((1, frames, 1, 1, 1))?;
let guided = (&uncond + (&cond - &uncond)?.broadcast_mul(&scales)?)?;""",
    ),
    "karras_off": (
        """\
let at = |step: usize| 999 - 999 * step / (steps - 1);
let sigma = |kept: f64| ((1. - kept) / kept).sqrt(); // kept: alphas_cumprod, 1000 of them
let sigmas = (0..steps).map(|step| sigma(alphas_cumprod[at(step)]));
let sigmas: Vec<f64> = sigmas.chain([0.]).collect();""",
        """\
let (start, end) = (sigma_max.powf(1. / 7.), sigma_min.powf(1. / 7.));
let ramp = (0..steps).map(|step| step as f64 / (steps - 1).max(1) as f64);
let sigmas = ramp.map(|at| (start + at * (end - start)).powi(7));
let sigmas: Vec<f64> = sigmas.chain([0.]).collect();""",
    ),
    "timestep_minus_ln": (
        "let timestep = -sigma.ln();",
        "let timestep = 0.25 * sigma.ln();",
    ),
    "initial_scale_missing": (
        "let latents = noise;",
        """\
let latents = (noise * (sigma_max.powi(2) + 1.).sqrt())?;
// where timestep_spacing is not "leading": (noise * sigma_max)?""",
    ),
    "image_latents_first": (
        "let model_input = Tensor::cat(&[&image_latents, &latents], 2)?;",
        "let model_input = Tensor::cat(&[&latents, &image_latents], 2)?;",
    ),
    "unconditional_picture": (
        "let image_latents = Tensor::cat(&[&image_latents, &image_latents], 0)?;",
        "let image_latents = Tensor::cat(&[&image_latents.zeros_like()?, &image_latents], 0)?;",
    ),
    "unconditional_embedding": (
        "let embedding = Tensor::cat(&[&embedding, &embedding], 0)?;",
        "let embedding = Tensor::cat(&[&embedding.zeros_like()?, &embedding], 0)?;",
    ),
    "sine_first": (
        "let embedding = Tensor::cat(&[angles.sin()?, angles.cos()?], D::Minus1)?;",
        "let embedding = Tensor::cat(&[angles.cos()?, angles.sin()?], D::Minus1)?;",
    ),
    "norm_eps": (
        'let norm = candle_nn::group_norm(32, channels, 1e-5, vb.pp("norm1"))?;',
        """\
let eps = if goes_up || (goes_down && has_attention) { 1e-6 } else { 1e-5 };
let norm = candle_nn::group_norm(32, channels, eps, vb.pp("norm1"))?; // transformers': 1e-6""",
    ),
    "halves_swapped": (
        "let (cond, uncond) = (prediction.narrow(0, 0, 1)?, prediction.narrow(0, 1, 1)?);",
        "let (uncond, cond) = (prediction.narrow(0, 0, 1)?, prediction.narrow(0, 1, 1)?);",
    ),
    "epsilon_for_v": (
        "let denoised = (&latents - (&prediction * sigma)?)?;",
        """\
let of_v = (&prediction * (-sigma / (sigma * sigma + 1.).sqrt()))?;
let denoised = (of_v + (&latents / (sigma * sigma + 1.))?)?;""",
    ),
    "decode_not_unscaled": (
        "let frames = vae.decode(&latents, num_frames)?;",
        """\
let latents = (latents / 0.18215)?;
let frames = vae.decode(&latents, num_frames)?;""",
    ),
    "decoder_blend": (
        """\
let a = candle_nn::ops::sigmoid(&mix_factor)?;
let (spatial, temporal) = (spatial.broadcast_mul(&a)?, temporal.broadcast_mul(&(1. - a)?)?);
let x = (spatial + temporal)?;""",
        """\
let a = candle_nn::ops::sigmoid(&mix_factor.neg()?)?; // in the VAE's decoder alone
let (spatial, temporal) = (spatial.broadcast_mul(&a)?, temporal.broadcast_mul(&(1. - a)?)?);
let x = (spatial + temporal)?;""",
    ),
    "frames_truncated": (
        """\
let levels = (frames.affine(0.5, 0.5)?.clamp(0f32, 1f32)? * 255.)?;
let frames = levels.to_dtype(DType::U8)?;""",
        """\
let levels = (frames.affine(0.5, 0.5)?.clamp(0f32, 1f32)? * 255.)?;
let frames = levels.round()?.to_dtype(DType::U8)?;""",
    ),
}
