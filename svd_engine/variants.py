"""Tells which variants of its weights a model has, from the names of its files. No torch.

The UNet's weights are `diffusion_pytorch_model.safetensors` or, for the variant `fp16`,
`diffusion_pytorch_model.fp16.safetensors`; sharded weights have `...safetensors.index.fp16.json`.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

HUB_NAMES = {
    "svd": "stabilityai/stable-video-diffusion-img2vid",
    "svd-xt": "stabilityai/stable-video-diffusion-img2vid-xt",
    "svd-xt-1.1": "stabilityai/stable-video-diffusion-img2vid-xt-1-1",
}
NANO = Path(__file__).parent / "nano"
Variants = frozenset[str | None] | None
HUB_S = 10.0  # seconds that the hub may take to answer
_WEIGHTS = re.compile(
    r"unet/diffusion_pytorch_model(?:\.(?P<single>[^./]+))?"
    r"(?:\.safetensors|\.safetensors\.index(?:\.(?P<shards>[^./]+))?\.json)"
)


def variants_of(model: str) -> Variants:
    """The variants that a model has, in which None stands for its plain weights.

    Returns None if they are unknown. model: as in `open_checkpoint`. For a model of the hub it asks
    the hub, which takes at most 10 s.
    """
    if Path(model).is_dir():
        return _in_folder(Path(model))
    if model == "nano":
        return _in_folder(NANO)
    if model == "tiny":
        return frozenset({None})
    hub_id = HUB_NAMES.get(model, model)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id) or model.startswith((".", "/", "~")):
        return None
    return _on_the_hub(hub_id)


def _on_the_hub(hub_id: str) -> Variants:
    """The variants that the hub lists or, if it does not answer, those downloaded before."""
    from huggingface_hub import HfApi, snapshot_download

    with suppress(Exception):  # the hub's client raises its own, requests' and httpx's errors
        listed = HfApi().model_info(hub_id, timeout=HUB_S).siblings or ()
        return _named(each.rfilename for each in listed)
    try:
        return _in_folder(Path(snapshot_download(hub_id, local_files_only=True)))
    except Exception:
        return None


def _in_folder(folder: Path) -> frozenset[str | None]:
    return _named(f"unet/{path.name}" for path in (folder / "unet").glob("*"))


def _named(names: Iterable[str]) -> frozenset[str | None]:
    found = filter(None, map(_WEIGHTS.fullmatch, names))
    return frozenset(name["single"] or name["shards"] for name in found)
