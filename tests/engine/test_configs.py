"""Configs: unknown fields are reported once, and unsupported schedulers are refused."""

import inspect
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from farm.model.request import Model
from farm.workers.engines import describe
from svd_engine.checkpoint import Checkpoint, open_checkpoint
from svd_engine.config import ScheduleConfig
from svd_engine.config_files import IDLE, CheckpointError
from svd_engine.schedule import initial_scale, make_sigmas, make_timesteps
from tests.support.reference import SCHEDULER

SETTINGS = set(inspect.signature(EulerDiscreteScheduler.__init__).parameters) - {"self"}
# Values that each of them may have.
VALUES: dict[str, tuple[Any, ...]] = {
    "num_train_timesteps": (1000, 500, 1234),
    "beta_start": (0.00085, 0.1),
    "beta_end": (0.012, 0.3),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "trained_betas": (None, [0.01] * 1000),
    "prediction_type": ("v_prediction", "epsilon", "sample"),
    "interpolation_type": ("linear", "log_linear"),
    "use_karras_sigmas": (True, False, None),
    "use_exponential_sigmas": (False, True),
    "use_beta_sigmas": (False, True),
    "sigma_min": (0.002, 0.1, None),
    "sigma_max": (700.0, 80.0, None),
    "timestep_spacing": ("leading", "linspace", "trailing"),
    "timestep_type": ("continuous", "discrete"),
    "steps_offset": (1, 0, 7),
    "rescale_betas_zero_snr": (False, True),
    "final_sigmas_type": ("zero", "sigma_min"),
}

# Those of them that the engine does not compute; of all others it makes diffusers' numbers.
REFUSED: dict[str, tuple[Any, ...]] = {
    "prediction_type": ("epsilon", "sample"),
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (True,),
    "use_beta_sigmas": (True,),
    "sigma_min": (None,),
    "sigma_max": (None,),
    "timestep_type": ("discrete",),
    "final_sigmas_type": ("sigma_min",),
}


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_every_setting_of_euler_is_known() -> None:
    assert (
        set(VALUES)
        == SETTINGS
        == (set(ScheduleConfig.model_fields) | IDLE[ScheduleConfig])
        - {
            "clip_sample",
            "set_alpha_to_one",
            "skip_prk_steps",
        }
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("given", [None, (80.0, 3.0, 0.5, 0.0)])
@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in VALUES.items() for value in values]
)
def test_a_setting_is_refused_or_makes_diffusers_numbers(
    name: str, value: Any, given: tuple[float, ...] | None, tmp_path: Path
) -> None:
    file = tmp_path / "scheduler/scheduler_config.json"
    file.parent.mkdir()
    file.write_text(json.dumps({**SCHEDULER, name: value, "_class_name": "EulerDiscreteScheduler"}))
    if value in REFUSED.get(name, ()):
        with pytest.raises(CheckpointError, match=name):
            _ = Checkpoint(tmp_path).schedule_config
        return
    config = Checkpoint(tmp_path).schedule_config
    theirs = EulerDiscreteScheduler(**{**SCHEDULER, name: value})
    kind = {"num_inference_steps": 7} if given is None else {"sigmas": list(given)}
    theirs.set_timesteps(**kind)
    sigmas = make_sigmas(config, 7, given)
    torch.testing.assert_close(sigmas, theirs.sigmas, rtol=1e-6, atol=0)
    torch.testing.assert_close(make_timesteps(sigmas), theirs.timesteps, rtol=1e-6, atol=1e-6)
    scale = torch.as_tensor(theirs.init_noise_sigma)
    torch.testing.assert_close(initial_scale(config, sigmas), scale, check_dtype=False)


@pytest.mark.parametrize(
    "name", ["LCMScheduler", "EulerAncestralDiscreteScheduler", "DDIMScheduler", 7, None]
)
def test_another_sampler_is_refused(name: object, model: Path) -> None:
    edit(model / "scheduler/scheduler_config.json", _class_name=name)
    words = f"asks for the sampler {name!r}; the engine samples with EulerDiscreteScheduler alone"
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint(model).check()
    assert ("distilled" in str(caught.value)) == (name == "LCMScheduler")


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        (
            "unet/config.json",
            {"_class_name": "UNet2DConditionModel"},
            "Stable Diffusion's or SDXL's",
        ),
        (
            "unet/config.json",
            {"_class_name": "UNetMotionModel"},
            "UNetMotionModel as its UNet: Anim",
        ),
        ("vae/config.json", {"_class_name": "AutoencoderKL"}, "AutoencoderKLTemporalDecoder"),
        ("image_encoder/config.json", {"model_type": "siglip_vision_model"}, "clip_vision_model"),
        ("image_encoder/config.json", {"hidden_act": "relu"}, "hidden_act.*'quick_gelu' or 'gelu'"),
        ("image_encoder/config.json", {"num_attention_heads": 5}, "not a multiple of"),
    ],
)
def test_a_part_of_another_model_is_refused(
    file: str, changes: dict[str, object], words: str, model: Path
) -> None:
    edit(model / file, **changes)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(model).check()


@pytest.mark.parametrize(
    "file",
    [
        "unet/config.json",
        "vae/config.json",
        "scheduler/scheduler_config.json",
        "feature_extractor/preprocessor_config.json",
    ],
)
def test_keys_that_mean_nothing_are_named_once(
    file: str, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit(model / file, dropout=0.1, a_new_key=[1], _diffusers_version="9", _name_or_path="x")
    for _ in range(3):
        open_checkpoint(model).check()
    (warning,) = [each for each in caplog.records if each.name == "svd_engine"]
    assert warning.levelno == logging.WARNING
    words = f"{model / file} has keys that have no effect here: a_new_key, dropout"
    assert warning.getMessage() == words
    assert describe(Model(name=str(model))).warnings == (words,)  # which a batch tells


def test_published_files_warn_of_nothing(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their scheduler has keys of other samplers, their preprocessor sizes that are not used."""
    edit(
        model / "scheduler/scheduler_config.json",
        clip_sample=False,
        set_alpha_to_one=False,
        skip_prk_steps=True,
        interpolation_type="linear",
        trained_betas=None,
    )
    edit(
        model / "feature_extractor/preprocessor_config.json",
        crop_size={"height": 224, "width": 224},
        do_center_crop=True,
        do_convert_rgb=True,
        do_rescale=True,
        do_resize=True,
        resample=3,
        rescale_factor=0.00392156862745098,
        size={"shortest_edge": 224},
        feature_extractor_type="CLIPFeatureExtractor",
    )
    for name in (model, "nano"):
        open_checkpoint(name).check()
    assert not caplog.records
