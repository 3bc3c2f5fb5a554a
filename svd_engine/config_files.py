"""A checkpoint's JSON files: read, of the class that the engine has, and checked value by value.

What a file says beyond that is named once, as a warning: diffusers passes over it as well.
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
# Keys of published files that have no effect on the numbers. Those of EulerDiscreteScheduler are
# listed where Karras sigmas between two given ends do not depend on them, which
# `tests/engine/test_configs.py` tries for each. The pipeline itself resizes the picture to
# 224 x 224, whatever sizes the preprocessor's file gives.
IDLE: dict[type[BaseModel], frozenset[str]] = {
    ScheduleConfig: frozenset(
        (
            *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
            *("interpolation_type", "steps_offset", "rescale_betas_zero_snr"),
            *("clip_sample", "set_alpha_to_one", "skip_prk_steps"),  # of other samplers
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
    """A model that cannot be found, read or used; the message says which part and why."""


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of a checkpoint's folder. CheckpointError."""
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
    """A component's config. CheckpointError: it is another class's, or has what is not supported.

    Warns, once, of keys that have no meaning here.
    """
    data = read_json(folder, name)
    _check_class(folder / name, kind, data)
    config = validate(folder / name, kind, data)
    idle = _idle(folder / name, kind, data)
    if idle:
        _warn_once(idle)
    return config


def idle_keys(folder: Path) -> tuple[str, ...]:
    """What is warned of in a checkpoint's files, a line for each. CheckpointError."""
    told = (_idle(folder / name, kind, read_json(folder, name)) for kind, name in FILES.items())
    return tuple(filter(None, told))


def _idle(path: Path, kind: type[BaseModel], data: dict[str, Any]) -> str:
    if kind is ClipConfig:  # transformers reads that file, and has hundreds of keys
        return ""
    known = {*kind.model_fields, *IDLE.get(kind, ())}
    extra = sorted(key for key in data if key not in known and not key.startswith("_"))
    return f"{path} has keys that mean nothing here: {', '.join(extra)}" if extra else ""


def validate(path: Path, kind: type[Config], data: dict[str, Any]) -> Config:
    """The data of a file, checked. CheckpointError names each value at fault."""
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
