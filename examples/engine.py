"""A picture becomes a clip in one process: python examples/engine.py [PICTURE] [OUT.mp4]"""

import sys
from pathlib import Path

from svd_engine import Engine, RenderParams

picture = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures/coffee.jpg"
out = sys.argv[2] if len(sys.argv) > 2 else "clip.mp4"

# `nano` is a small model that comes with the package. With a GPU and the published weights:
# Engine.from_pretrained("svd-xt", device="cuda", dtype=torch.float16, variant="fp16")
engine = Engine.from_pretrained("nano")
params = RenderParams(seed=7, num_inference_steps=10, fps=8, fit="crop")
clip = engine.render(picture, params, on_step=lambda done, _: print(f"step {done}", end="\r"))

print(clip.frames.shape, clip.frames.dtype, clip.save(out))
