# %% [markdown]
# # The stages of a clip, one by one
# Open this file as a notebook (cells are marked `# %%`), or run it from the repository's root:
# `python examples/notebook.py`. Each stage can be called alone, on its network's device.

# %%
import torch

from svd_engine import RenderParams, open_checkpoint, stages
from svd_engine.picture import open_picture

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
# Denoising is a generator. It holds no state but the latents, so it can stop at any step, and go on
# from there in another process: the result is the same to the last bit.

# %%
unet, schedule = checkpoint.load_unet(*place), checkpoint.schedule_config
steps = list(stages.denoise(unet, schedule, conditioning, noise.latents, params))
resumed = list(stages.denoise(unet, schedule, conditioning, steps[4], params, start=5))
assert torch.equal(resumed[-1], steps[-1])
print("standard deviation after each step", [round(x.std().item(), 2) for x in steps])

# %% [markdown]
# The decoder sees the whole clip at once. In chunks it leaves seams, as diffusers' does.

# %%
whole = stages.decode(vae, steps[-1][0])
chunks = stages.decode(vae, steps[-1][0], chunk_size=4)
difference = (whole - chunks).abs().amax(dim=(1, 2, 3))
print("what chunks of 4 change, frame by frame", [round(x.item(), 3) for x in difference])
