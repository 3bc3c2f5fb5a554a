"""Find a model, read its configs, and load its components, strictly and one at a time.

A checkpoint is a folder in the diffusers layout: a JSON config and safetensors weights for each of
`unet`, `vae` and `image_encoder`, and JSON alone for `scheduler` and `feature_extractor`.
"""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from svd_engine.clip import ImageEncoder
from svd_engine.config import (
    ClipConfig,
    PreprocessorConfig,
    ScheduleConfig,
    UNetConfig,
    VAEConfig,
)
from svd_engine.config_files import CheckpointError, idle_keys, read_config, read_json, validate
from svd_engine.nearest import did_you_mean, in_sentences
from svd_engine.params import RenderDefaults
from svd_engine.recognize import SUFFIXES, explain_file, explain_folder, explain_weights
from svd_engine.tiny import cached_tiny
from svd_engine.unet import UNet
from svd_engine.vae import VAE
from svd_engine.variants import HUB_NAMES, NANO

WEIGHT_NAMES = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "image_encoder": "model",
}
# Older versions of transformers saved this buffer; current ones do not.
IGNORED_KEYS = {"image_encoder": {"vision_model.embeddings.position_ids"}}

Network = TypeVar("Network", bound=nn.Module)


def open_checkpoint(
    model: str | os.PathLike[str] = "nano", variant: str | None = None
) -> "Checkpoint":
    """Find a model: a folder, a hub id (downloaded once), or one of the names below.

    `nano` ships with the package, `tiny` is generated on this machine, and `svd`, `svd-xt` and
    `svd-xt-1.1` are the published models.

    variant: `fp16` selects the weights saved as `*.fp16.safetensors`.
    Raises CheckpointError if there is no such model, or if it is not an SVD model.
    """
    there = _look_at(Path(model))
    if there is not None:
        return Checkpoint(there, variant)
    name = str(model)
    if name == "nano":
        return Checkpoint(NANO, variant)
    if name == "tiny":
        return Checkpoint(cached_tiny(), variant)
    hub_id = HUB_NAMES.get(name, name)
    is_file = Path(name).suffix.lower() in {".safetensors", *SUFFIXES}
    if hub_id.count("/") == 1 and not name.startswith((".", "/", "~")) and not is_file:
        return Checkpoint(_download(hub_id, variant), variant)
    names = (*HUB_NAMES, "nano", "tiny")
    known = f"Give a folder in the diffusers layout, a hub id (owner/name), or {', '.join(names)}"
    raise CheckpointError(in_sentences([f"No model {name!r}{did_you_mean(name, names)}", known]))


def _look_at(path: Path) -> Path | None:
    """The path, if it is a folder; None if nothing is there. Raises CheckpointError otherwise."""
    try:
        if path.is_dir():
            return path
        if path.is_file():
            raise CheckpointError(explain_file(path))
        exists = path.exists()
    except OSError as error:  # the name is too long, or access is denied
        raise CheckpointError(f"No model can be read at {str(path)[:200]!r}: {error}") from error
    if exists:
        raise CheckpointError(f"{path} is neither a folder nor a file: give a folder")
    return None


def _download(hub_id: str, variant: str | None) -> Path:
    """Download the files that are needed, and no other weights; return the snapshot's folder."""
    from huggingface_hub import snapshot_download

    if variant is None:
        allowed, ignored = ["*.json", "*/*.safetensors"], ["*/*.*.safetensors"]
    else:
        allowed, ignored = ["*.json", f"*/*.{variant}*.safetensors"], []
    try:
        return Path(snapshot_download(hub_id, allow_patterns=allowed, ignore_patterns=ignored))
    except Exception as error:  # the client raises its own errors, requests' and httpx's
        raise CheckpointError(
            f"cannot get {hub_id!r} from the hub (is the name right, the licence accepted, "
            f"HF_TOKEN set, the network up?): {error}"
        ) from error


@dataclass(frozen=True)
class Checkpoint:
    """A folder in the diffusers layout. Its files are read only on demand."""

    folder: Path
    variant: str | None = None

    @cached_property
    def unet_config(self) -> UNetConfig:
        return read_config(self.folder, "unet/config.json", UNetConfig)

    @cached_property
    def vae_config(self) -> VAEConfig:
        return read_config(self.folder, "vae/config.json", VAEConfig)

    @cached_property
    def image_encoder_config(self) -> ClipConfig:
        return read_config(self.folder, "image_encoder/config.json", ClipConfig)

    @cached_property
    def schedule_config(self) -> ScheduleConfig:
        return read_config(self.folder, "scheduler/scheduler_config.json", ScheduleConfig)

    @cached_property
    def preprocessor_config(self) -> PreprocessorConfig:
        return read_config(
            self.folder, "feature_extractor/preprocessor_config.json", PreprocessorConfig
        )

    @cached_property
    def render_defaults(self) -> RenderDefaults:
        """What to render where a request leaves a parameter open."""
        own = {"num_frames": self.unet_config.num_frames}
        if (self.folder / "render_defaults.json").exists():
            own |= read_json(self.folder, "render_defaults.json")
        return validate(self.folder / "render_defaults.json", RenderDefaults, own)

    @cached_property
    def digest(self) -> str:
        """The sha256 of everything that determines what this model renders: configs and weights."""
        names = ["scheduler/scheduler_config.json", "feature_extractor/preprocessor_config.json"]
        files = [self.folder / name for name in names]
        for component in WEIGHT_NAMES:
            files += [self.folder / component / "config.json", *self.weight_files(component)]
        digest = hashlib.sha256()
        for file in files:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    @property
    def warnings(self) -> tuple[str, ...]:
        """A line for each config with keys that have no effect here."""
        return idle_keys(self.folder)

    def load_unet(self, device: torch.device, dtype: torch.dtype) -> UNet:
        """Load the UNet."""
        with torch.device("meta"):
            unet = UNet(self.unet_config)
        return self._load("unet", unet, device, dtype)

    def load_vae(self, device: torch.device, dtype: torch.dtype) -> VAE:
        """Load the VAE."""
        with torch.device("meta"):
            vae = VAE(self.vae_config)
        return self._load("vae", vae, device, dtype)

    def load_image_encoder(self, device: torch.device, dtype: torch.dtype) -> ImageEncoder:
        """Load CLIP's vision tower."""
        with torch.device("meta"):
            model = ImageEncoder(self.image_encoder_config)
        return self._load("image_encoder", model, device, dtype)

    def check(self) -> None:
        """Raise CheckpointError unless all components exist and fit one another."""
        fault = explain_folder(self.folder)
        if fault:
            raise CheckpointError(fault)
        clip = self.image_encoder_config
        widths = self.unet_config.per_block("cross_attention_dim")
        if any(width != clip.projection_dim for width in widths):
            raise CheckpointError(
                f"{self.folder}: the UNet's cross_attention_dim {list(widths)} is not the image "
                f"encoder's projection_dim {clip.projection_dim}"
            )
        if self.unet_config.out_channels != self.vae_config.latent_channels:
            raise CheckpointError(
                f"{self.folder}: the UNet makes {self.unet_config.out_channels} channels, "
                f"the VAE reads {self.vae_config.latent_channels}"
            )
        _ = self.schedule_config, self.preprocessor_config, self.render_defaults
        for component in WEIGHT_NAMES:
            for file in self.weight_files(component):
                fault = explain_weights(file)
                if fault:
                    raise CheckpointError(fault)

    def weight_files(self, component: str) -> list[Path]:
        """The safetensors files of a component: one file, or the shards that its index lists."""
        folder, stem = self.folder / component, WEIGHT_NAMES[component]
        tag = f".{self.variant}" if self.variant else ""
        single = folder / f"{stem}{tag}.safetensors"
        index = folder / f"{stem}.safetensors.index{tag}.json"
        if single.exists():
            return [single]
        if index.exists():
            weight_map = read_json(self.folder, f"{component}/{index.name}").get("weight_map")
            if not isinstance(weight_map, dict):
                raise CheckpointError(f"{index} has no weight_map")
            shards = sorted(set(weight_map.values()))
            missing = [name for name in shards if not (folder / name).exists()]
            if missing:
                raise CheckpointError(f"{index} names {missing}, which do not exist")
            return [folder / name for name in shards]
        raise CheckpointError(self._no_weights(component, single.name))

    def _no_weights(self, component: str, wanted: str) -> str:
        """The message for missing weights: what there is, and what to give instead."""
        folder = self.folder / component
        there = sorted(path for path in folder.glob("*") if path.suffix != ".json")
        if not any(path.suffix == ".safetensors" for path in there):
            for path in there:
                if path.suffix in SUFFIXES and path.is_file():
                    return explain_file(path)
        names = ", ".join(path.name for path in there)
        found = f"it has {names}" if there else "it has no weights at all"
        return f"{folder} has no {wanted}; {found} (is the variant right?)"

    def _load(
        self, component: str, network: Network, device: torch.device, dtype: torch.dtype
    ) -> Network:
        """Load a network that was built on `meta`, tensor by tensor. Names must match exactly."""
        files = self.weight_files(component)
        home = self._check_tensors(component, network, files)
        for file in files:
            with safe_open(file, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 (not a mapping)
                    if home.get(key) == file:
                        _assign(network, key, tensors.get_tensor(key).to(device, dtype))
        return network.eval().requires_grad_(False)

    def _check_tensors(
        self, component: str, network: nn.Module, files: list[Path]
    ) -> dict[str, Path]:
        """Check all names, shapes and types against the network; return the file of each tensor."""
        wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        home: dict[str, Path] = {}
        faults: list[str] = []
        for file in files:
            try:
                with safe_open(file, framework="pt") as tensors:
                    for key in tensors.keys():  # noqa: SIM118 (not a mapping)
                        slice_ = tensors.get_slice(key)
                        shape, kind = tuple(slice_.get_shape()), slice_.get_dtype()
                        if key in IGNORED_KEYS.get(component, ()):
                            continue
                        home[key] = file
                        if key not in wanted:
                            faults.append(f"{key} is not part of the network")
                        elif shape != wanted[key]:
                            faults.append(f"{key} has shape {shape}, not {wanted[key]}")
                        elif kind not in ("F64", "F32", "F16", "BF16"):
                            faults.append(f"{key} holds {kind}, not floating point")
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"{file} is not a complete safetensors file: {error}"
                ) from error
        faults += [f"{key} is missing" for key in wanted if key not in home]
        if faults:
            more = f" and {len(faults) - 8} more" if len(faults) > 8 else ""
            raise CheckpointError(
                f"{self.folder / component} does not fit its config: {'; '.join(faults[:8])}{more}"
            )
        return home


def lay_out(network: nn.Module) -> None:
    """Store the filters of a network in the memory layout in which its convolutions run."""
    for parameter in network.parameters():
        parameter.data = _channels_last(parameter.data)


def _channels_last(value: torch.Tensor) -> torch.Tensor:
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(value.ndim)
    return value if layout is None else value.contiguous(memory_format=layout)


def _assign(network: nn.Module, key: str, value: torch.Tensor) -> None:
    """Replace the `meta` parameter of that name by a tensor."""
    path, _, name = key.rpartition(".")
    parameter = nn.Parameter(_channels_last(value), requires_grad=False)
    setattr(network.get_submodule(path), name, parameter)
