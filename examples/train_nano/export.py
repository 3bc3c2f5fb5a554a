"""Write a run's networks as a checkpoint in the published layout, in half precision.

python examples/train_nano/export.py --recipe gpu --out runs/nano
python -m svd_engine render photo.jpg --model runs/nano/checkpoint --out clip.mp4
"""

import json
from pathlib import Path
from typing import Any

from loop import load_state
from recipes import arguments
from safetensors.torch import save_file
from weights import FRAMES, unet_config, vae_config

from svd_engine.tiny import CLIP_CONFIG, MODEL_INDEX, PREPROCESSOR, SCHEDULER

# Strong guidance burns out the colours of a model this small.
RENDER_DEFAULTS = {
    "width": 128,
    "height": 128,
    "num_frames": FRAMES,
    "max_guidance_scale": 1.5,
    "motion_bucket_id": 50,
}
SIGMA_MAX = 400.0  # SVD's 700 is seldom seen in the training


def write_json(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2) + "\n")


def write_network(folder: Path, name: str, config: dict[str, Any], state: dict[str, Any]) -> None:
    """One component: its config, and its weights in half precision."""
    write_json(folder / "config.json", config)
    tensors = {key: value.half().contiguous() for key, value in sorted(state.items())}
    save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})


def main() -> None:
    recipe, out, _ = arguments(__doc__)
    folder = out / "checkpoint"
    states: dict[str, dict[str, Any]] = {"vae": {}, "unet": {}, "image_encoder": {}}
    for name, schedule in {"vae": recipe.vae.schedule, "unet": recipe.unet.schedule}.items():
        state = load_state(out / f"{name}.pt")
        print(f"{name}: step {state['step']} of {schedule.steps}")
        for key, value in state["networks"].items():
            component, _, own = key.partition(".")
            states[component][own] = value
    stem = "diffusion_pytorch_model"
    write_network(folder / "vae", stem, vae_config(), states["vae"])
    write_network(folder / "unet", stem, unet_config(), states["unet"])
    write_network(folder / "image_encoder", "model", CLIP_CONFIG, states["image_encoder"])
    write_json(folder / "model_index.json", MODEL_INDEX)
    write_json(folder / "render_defaults.json", RENDER_DEFAULTS)
    write_json(folder / "scheduler/scheduler_config.json", SCHEDULER | {"sigma_max": SIGMA_MAX})
    write_json(folder / "feature_extractor/preprocessor_config.json", PREPROCESSOR)
    print(folder)


if __name__ == "__main__":
    main()
