"""Reads a checkpoint's JSON files, and checks that the engine supports their class and values.

Keys that have no effect here are reported once, as a warning. diffusers ignores them as well.
"""

import json
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from svd_engine.config import ClipConfig, PreprocessorConfig, ScheduleConfig, UNetConfig, VAEConfig
from svd_engine.recognize import ANOTHER

log = logging.getLogger("svd_engine")

Config = TypeVar("Config", bound=BaseModel)

CLASSES: dict[type[BaseModel], str] = {
    UNetConfig: "UNetSpatioTemporalConditionModel",
    VAEConfig: "AutoencoderKLTemporalDecoder",
    ScheduleConfig: "EulerDiscreteScheduler",
}
FILES: dict[type[BaseModel], str] = {
    UNetConfig: "unet/config.json",
    VAEConfig: "vae/config.json",
    ScheduleConfig: "scheduler/scheduler_config.json",
    PreprocessorConfig: "feature_extractor/preprocessor_config.json",
}
# Keys of published files that do not affect the numbers, so they need no warning. Those of
# EulerDiscreteScheduler are listed if Karras sigmas between two given ends do not depend on them,
# which `tests/engine/test_configs.py` tries for each. The preprocessor's sizes have no effect,
# because the pipeline always resizes the picture to 224 x 224.
IDLE: dict[type[BaseModel], frozenset[str]] = {
    ScheduleConfig: frozenset(
        (
            *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
            *("interpolation_type", "steps_offset", "rescale_betas_zero_snr"),
            *("clip_sample", "set_alpha_to_one", "skip_prk_steps"),  # keys of other samplers
        )
    ),
    PreprocessorConfig: frozenset(
        (
            *("crop_size", "do_center_crop", "do_convert_rgb", "do_rescale", "do_resize"),
            *("feature_extractor_type", "image_processor_type", "processor_class"),
            *("resample", "rescale_factor", "size"),
        )
    ),
}


class CheckpointError(ValueError):
    """A model cannot be found, read or used. The message says which part of it, and why."""


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON object from a checkpoint's folder. Raises CheckpointError."""
    path = folder / name
    try:
        data = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{folder} is not an SVD checkpoint: no {name}") from error
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return data


def read_config(folder: Path, name: str, kind: type[Config]) -> Config:
    """Read a component's config, and warn once about keys that have no effect here.

    Raises CheckpointError if the config is of another class, or has an unsupported value.
    """
    data = read_json(folder, name)
    _check_class(folder / name, kind, data)
    config = validate(folder / name, kind, data)
    idle = _idle(folder / name, kind, data)
    if idle:
        _warn_once(idle)
    return config


def idle_keys(folder: Path) -> tuple[str, ...]:
    """A line for each file with keys that have no effect here. Raises CheckpointError."""
    lines = (_idle(folder / name, kind, read_json(folder, name)) for kind, name in FILES.items())
    return tuple(filter(None, lines))


def _idle(path: Path, kind: type[BaseModel], data: dict[str, Any]) -> str:
    if kind is ClipConfig:  # transformers writes that file, with hundreds of keys
        return ""
    known = {*kind.model_fields, *IDLE.get(kind, ())}
    extra = sorted(key for key in data if key not in known and not key.startswith("_"))
    return f"{path} has keys that have no effect here: {', '.join(extra)}" if extra else ""


def validate(path: Path, kind: type[Config], data: dict[str, Any]) -> Config:
    """Check the data of a file. Raises CheckpointError, which names each faulty value."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}, got {fault['input']!r:.80}"
            for fault in error.errors()
        )
        raise CheckpointError(f"{path} is not supported: {faults}") from error


def _check_class(path: Path, kind: type[BaseModel], data: dict[str, Any]) -> None:
    wanted = CLASSES.get(kind)
    found = data.get("_class_name", wanted)
    if kind is ClipConfig:
        wanted, found = "clip_vision_model", data.get("model_type", "clip_vision_model")
    if found == wanted:
        return
    if kind is ScheduleConfig:
        lcm = ", and what is distilled for LCM needs that" if found == "LCMScheduler" else ""
        raise CheckpointError(
            f"{path} asks for the sampler {found!r}; the engine samples with {wanted} alone{lcm}, "
            "and would make other frames: give a model that was made for it"
        )
    raise CheckpointError(f"{path} is of {found!r}, and SVD's is {wanted}: {ANOTHER}")


@lru_cache
def _warn_once(text: str) -> None:
    log.warning("%s", text)
