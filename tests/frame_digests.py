"""Digests of the frames of a few small clips, by the kind of processor that computed them.

`python -m tests.frame_digests` adds this machine's digests to `frame_digests.json`, for the current
NUMERICS. Run it when NUMERICS was raised, and on a processor of a new kind.
"""

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import torch

from svd_engine import NUMERICS, Engine, RenderParams
from tests.conftest import draw_picture

TABLE = Path(__file__).with_suffix(".json")
SMALL = {"width": 64, "height": 64, "num_frames": 4, "num_inference_steps": 2}
GUIDED = {"min_guidance_scale": 1.0, "max_guidance_scale": 3.0}
CLIPS: dict[str, tuple[str, dict[str, Any]]] = {
    "guided": ("nano", SMALL | GUIDED),
    "not guided, of another size": ("nano", SMALL | {"max_guidance_scale": 1.0, "height": 72}),
    "decoded in chunks": ("nano", SMALL | GUIDED | {"decode_chunk_size": 3, "seed": 7}),
    "four levels": ("tiny", SMALL | GUIDED),
}


def kind() -> str:
    """Everything known to affect the bits of a result.

    These are the version of torch, which includes oneDNN and MKL; the instruction set that ATen's
    kernels use; and the processor's vendor and further instructions, by which oneDNN and MKL choose
    their kernels.
    """
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    properties = {line.partition(":")[0].strip(): line.partition(":")[2].split() for line in lines}
    wide = [
        f
        for f in ("avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
        if f in properties.get("flags", [])
    ]
    vendor = properties.get("vendor_id", [platform.machine()])
    capability = torch.backends.cpu.get_cpu_capability()
    return " ".join([f"torch {torch.__version__}", capability, *vendor, *wide])


def digests(models: dict[str, Path | str]) -> dict[str, str]:
    """The digest of each clip's frames, computed by one thread."""
    threads, picture = torch.get_num_threads(), draw_picture()
    torch.set_num_threads(1)  # the division of work may affect the order of sums
    try:
        engines = {name: Engine.from_pretrained(model) for name, model in models.items()}
        return {
            name: hashlib.sha256(
                engines[model].render(picture, RenderParams(**params)).frames.tobytes()
            ).hexdigest()
            for name, (model, params) in CLIPS.items()
        }
    finally:
        torch.set_num_threads(threads)


def table() -> dict[str, Any]:
    """{"numerics": NUMERICS, "digests": {kind: {clip: digest}}}."""
    read: dict[str, Any] = json.loads(TABLE.read_text())
    return read


def write() -> None:
    """Write this machine's digests, and remove those of other NUMERICS."""
    old: dict[str, Any] = table() if TABLE.exists() else {"numerics": None}
    kept = old["digests"] if old["numerics"] == NUMERICS else {}
    new = kept | {kind(): digests({"nano": "nano", "tiny": "tiny"})}
    document = {"numerics": NUMERICS, "digests": dict(sorted(new.items()))}
    TABLE.write_text(json.dumps(document, indent=2) + "\n")
    print(f"{TABLE.name}: numerics {NUMERICS}, {kind()}")


if __name__ == "__main__":
    write()
