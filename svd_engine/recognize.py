"""Recognizes model files and folders that cannot be loaded, so that an error can say what they are.

Of a safetensors file only the head is read: its length, and JSON with the names, types and shapes
of the tensors. No weights are read, nothing is unpickled, and torch is not imported.
"""

import json
import re
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

MAX_HEAD = 100_000_000  # bytes, as in the safetensors library
FLOATS = ("F64", "F32", "F16", "BF16")
LAYOUT = "give the model as a folder in the diffusers layout, as the hub has svd and svd-xt"
ANOTHER = "give a model of Stable Video Diffusion: a folder in the diffusers layout, svd or svd-xt"
PICKLED = (
    "is a pickle. Loading a pickle runs whatever code is in it, so pickles are refused: "
    "give safetensors weights, in a folder in the diffusers layout"
)
MAGICS = (
    (b"GGUF", f"is a GGUF file, with quantized weights: {LAYOUT}, in float16 or float32"),
    (b"version https://git-lfs", "is a Git LFS pointer, not weights: run git lfs pull"),
    (b"<!doctype html", "is a web page, perhaps a login page: download the file again"),
    (b"<html", "is a web page, perhaps a login page: download the file again"),
    (b"PK\3\4", PICKLED),  # torch's zip format, which contains a pickle
    (b"\x80\2", PICKLED),
    (b"\x80\3", PICKLED),
    (b"\x80\4", PICKLED),
    (b"\x80\5", PICKLED),
)
SUFFIXES = dict.fromkeys((".ckpt", ".pt", ".pth", ".pkl", ".bin"), PICKLED) | {
    ".onnx": f"is an ONNX export: {LAYOUT}",
    ".gguf": f"is a GGUF file, with quantized weights: {LAYOUT}, in float16 or float32",
}
# What a file contains, by a pattern in the names of its tensors. The first match counts.
ADAPTERS = (
    (
        r"lora_(up|down|A|B)\b|\.lora[._]|^lora_|(hada|lokr)_w\d",
        "is a LoRA, that is, changes to a model's weights. LoRAs are not supported yet",
    ),
    (r"\bip_adapter\.|^image_proj\.", f"is an IP-Adapter, not a model: {ANOTHER}"),
    (
        r"motion_modules\.",
        f"is a motion module of AnimateDiff, not a complete model: {ANOTHER}",
    ),
    (
        r"^control_model\.|controlnet_(cond_embedding|down_blocks)",
        f"is a ControlNet, not a complete model: {ANOTHER}",
    ),
    (r"^(emb_params|string_to_param)", f"is a textual inversion, not a model: {ANOTHER}"),
    (
        r"time_embed(ding)?\.cond_proj\.",
        "is an LCM, which is distilled for few steps of a sampler of its own, and the engine "
        f"samples only with Euler. Take a model that is not distilled: {LAYOUT}",
    ),
)
SINGLE = (
    (
        r"\b(input_blocks|middle_block|output_blocks)\..*(time_stack|time_mixer)",
        "is Stable Video Diffusion as a single file, in its original (sgm) layout. Single files "
        f"are not supported yet: {LAYOUT}",
    ),
    (r"^conditioner\.embedders\.1\.", f"is SDXL as a single file: {ANOTHER}"),
    (r"\bjoint_blocks\.", f"is Stable Diffusion 3 as a single file: {ANOTHER}"),
    (r"\bdouble_blocks\.", f"is a transformer like those of Flux and HunyuanVideo: {ANOTHER}"),
    (
        r"^(cond_stage_model|model\.diffusion_model|input_blocks)\.",
        f"is Stable Diffusion as a single file: {ANOTHER}",
    ),
    (
        r"(temporal_res_block|temporal_transformer_blocks)\.",
        "holds a network of Stable Video Diffusion in the diffusers layout: give the folder of the "
        "whole model, with unet/, vae/, image_encoder/, scheduler/ and feature_extractor/ in it",
    ),
    (r"\btransformer_blocks\.\d+\.(norm1\.linear|attn1)", f"is a video transformer: {ANOTHER}"),
)
OTHER_PIPELINES = {
    "StableDiffusionXL": "SDXL, which makes pictures from text",
    "StableDiffusion3": "Stable Diffusion 3, which makes pictures from text",
    "StableDiffusion": "Stable Diffusion, which makes pictures from text",
    "LatentConsistencyModel": "an LCM, which makes pictures from text",
    "AnimateDiff": "AnimateDiff, which makes clips from text",
    "CogVideoX": "CogVideoX, which makes clips from text",
}
OTHER_NETWORKS = {
    "UNet2DConditionModel": "Stable Diffusion's or SDXL's, which make pictures from text",
    "UNetMotionModel": "AnimateDiff's, which makes clips from text",
}
SVD_PIPELINE = "StableVideoDiffusionPipeline"
SVD_UNET = "UNetSpatioTemporalConditionModel"


@dataclass(frozen=True)
class Head:
    """The head of a safetensors file."""

    keys: frozenset[str]
    types: tuple[str, ...]  # of its tensors, sorted and without repetitions
    metadata: str  # as JSON text


def read_head(file: Path) -> Head:
    """Read a safetensors file's head. Raises ValueError if it contradicts the file's length."""
    with file.open("rb") as stream:
        start = stream.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= size <= MAX_HEAD:
            raise ValueError(f"{file} is not a safetensors file")
        text = stream.read(size)
    try:
        entries = json.loads(text)
        metadata = entries.pop("__metadata__", {})
        ends = [entry["data_offsets"][1] for entry in entries.values()]
        types = sorted({str(entry["dtype"]) for entry in entries.values()})
        whole = 8 + size + max(ends, default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is not a safetensors file, or its head is broken") from error
    there = file.stat().st_size
    if there != whole:
        raise ValueError(
            f"{file} is not a complete safetensors file: it has {there} bytes, and its head says "
            f"{whole}; download it again"
        )
    return Head(frozenset(entries), tuple(types), json.dumps(metadata))


def explain_file(file: Path) -> str:
    """Say what a file is and what to give instead, since a single file is never a model."""
    head = _head_of(file, f"; {LAYOUT}")
    if isinstance(head, str):
        return head
    what = _named(head.keys, ADAPTERS) or _named(head.keys, SINGLE)
    what = what or f"is a safetensors file of an unknown model: {LAYOUT}"
    return f"{file} {what}{_in_types(head)}{_distilled(file, head, what)}"


def explain_weights(file: Path) -> str | None:
    """Say why a weights file of a model's folder cannot be loaded; None if its head looks right."""
    head = _head_of(file)
    if isinstance(head, str):
        return head
    what = _named(head.keys, ADAPTERS)
    if what:
        return f"{file} {what}"
    return f"{file} holds weights that cannot be used{_in_types(head)}" if _odd(head) else None


def explain_folder(folder: Path) -> str | None:
    """Say what a folder is if it is not SVD in the diffusers layout; None if it may be."""
    kind = _class_of(folder / "model_index.json")
    if kind not in (None, SVD_PIPELINE):
        begins = (name for name in OTHER_PIPELINES if kind and kind.startswith(name))
        what = OTHER_PIPELINES.get(next(begins, ""), "another pipeline")
        return f"{folder} is a {kind}: {what}. It is not SVD: {ANOTHER}"
    if (folder / "unet/config.json").is_file():
        network = _class_of(folder / "unet/config.json")
        if network in (None, SVD_UNET):
            return None
        what = OTHER_NETWORKS.get(str(network), "another pipeline")
        return f"{folder} has a {network} as its UNet: {what}. It is not SVD: {ANOTHER}"
    for inner in _inner_models(folder):
        return f"{folder} is not a model itself, but contains one: give {inner}"
    files = sorted(path for path in _files(folder) if path.suffix != ".json")
    for file in files:
        if file.suffix == ".onnx":
            return f"{folder} is an ONNX export ({file.relative_to(folder)}): {LAYOUT}"
    for file in files:
        if file.suffix == ".safetensors" or file.suffix in SUFFIXES:
            return f"{folder} is not in the diffusers layout: {explain_file(file)}"
    if (folder / "transformer/config.json").is_file():
        name = _class_of(folder / "transformer/config.json") or "transformer"
        return f"{folder} is a model with a {name}, not SVD: {ANOTHER}"
    return None


def _head_of(file: Path, hint: str = "") -> Head | str:
    """The head of a safetensors file, or what the file is. hint: added if the head is broken."""
    fault = _other_format(file)
    if fault:
        return fault
    try:
        return read_head(file)
    except ValueError as error:
        return f"{error}{hint}"


def _other_format(file: Path) -> str | None:
    """Say what a file of another format is, by its first bytes or its name; None if unknown."""
    with file.open("rb") as stream:
        start = stream.read(64)
    if not start:
        return f"{file} is empty: download it again"
    for magic, what in MAGICS:
        if start.lower().startswith(magic.lower()):
            return f"{file} {what}"
    what = SUFFIXES.get(file.suffix.lower(), "")
    return f"{file} {what}" if what else None


def _named(keys: Collection[str], table: tuple[tuple[str, str], ...]) -> str:
    for pattern, what in table:
        if any(re.search(pattern, key) for key in keys):
            return what
    return ""


def _odd(head: Head) -> list[str]:
    """The types that cannot be weights here. Integers are allowed, since position ids have them."""
    return [kind for kind in head.types if kind not in (*FLOATS, "I64", "I32")]


def _in_types(head: Head) -> str:
    odd = _odd(head)
    if not odd:
        return f" (it holds {', '.join(head.types)})" if head.types else ""
    what = "8-bit floats (fp8)" if any(kind.startswith("F8") for kind in odd) else "quantized"
    return (
        f" (it holds {', '.join(head.types)}: {what}, which the engine does not compute with; take "
        "the float16 or float32 file)"
    )


def _distilled(file: Path, head: Head, what: str) -> str:
    """A note about a file that is an LCM by its name or metadata, though not by its tensors."""
    if "LCM" in what or not re.search(r"lcm", f"{file.name} {head.metadata}", re.IGNORECASE):
        return ""
    return "; by its name it is an LCM, distilled for a sampler that the engine does not have"


def _class_of(config: Path) -> str | None:
    """The class that a config names; None if it names none."""
    try:
        name = json.loads(config.read_bytes()).get("_class_name")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return name if isinstance(name, str) else None


def _inner_models(folder: Path) -> list[Path]:
    """Models one folder down, or in the place where the hub's cache keeps them."""
    found = (*folder.glob("*/unet/config.json"), *folder.glob("snapshots/*/unet/config.json"))
    return sorted(config.parent.parent for config in found)


def _files(folder: Path) -> list[Path]:
    return [path for path in (*folder.glob("*"), *folder.glob("*/*")) if path.is_file()]
