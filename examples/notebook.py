# %% [markdown]
# # The stages of a clip, one by one
# Open this file as a notebook (cells are marked `# %%`), or run it from the repository's root:
# `python examples/notebook.py`. Each stage can be called alone, on its network's device.

# %%
import torch

from svd_engine import RenderParams, open_checkpoint, stages
from svd_engine.picture_files import open_picture

checkpoint = open_checkpoint("nano")
place = torch.device("cpu"), torch.float32
params = RenderParams(num_inference_steps=8, seed=3).resolve(checkpoint.render_defaults)
params

# %% [markdown]
# All noise is drawn once, on the CPU, from the seed: the picture's first, then the latents'.

# %%
noise = stages.draw_noise(params, torch.float32, checkpoint.vae_config.latent_channels)
print("noise", tuple(noise.picture.shape), tuple(noise.latents.shape))

# %% [markdown]
# The picture is seen twice: by CLIP, squashed to 224 x 224, and by the VAE's encoder, with a little
# noise added to its pixels. Both networks can go once this is done.

# %%
image = open_picture("examples/pictures/cat.webp")
image_encoder, vae = checkpoint.load_image_encoder(*place), checkpoint.load_vae(*place)
conditioning = stages.encode(
    image_encoder, vae, checkpoint.preprocessor_config, image, noise, params
)
print("embedding", tuple(conditioning.embedding.shape))
print("image latent", tuple(conditioning.image_latent.shape))
print("time ids: fps - 1, motion bucket, augmentation", conditioning.time_ids.tolist())

# %% [markdown]
# Denoising is a generator of steps. Each has the latents after it, and an estimate of the clip
# without noise, from which previews are drawn. The latents are the only state: denoising can stop
# at any step and continue in another process, and the result is the same to the last bit.

# %%
unet, schedule = checkpoint.load_unet(*place), checkpoint.schedule_config
steps = list(stages.denoise(unet, schedule, conditioning, noise.latents, params))
resumed = list(stages.denoise(unet, schedule, conditioning, steps[4].latents, params, start=5))
assert torch.equal(resumed[-1].latents, steps[-1].latents)
print("standard deviation after each step", [round(s.latents.std().item(), 2) for s in steps])
print("... of the estimate without noise", [round(s.denoised.std().item(), 2) for s in steps])

# %% [markdown]
# The decoder sees the whole clip at once. In chunks it leaves seams, as diffusers' does.

# %%
latents = steps[-1].latents[0]
whole = stages.decode(vae, latents)
chunks = stages.decode(vae, latents, chunk_size=4)
difference = (whole - chunks).abs().amax(dim=(1, 2, 3))
print("what chunks of 4 change, frame by frame", [round(x.item(), 3) for x in difference])
