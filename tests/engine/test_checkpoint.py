"""Finding and loading of models, and the messages about those that are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from svd_engine import Engine, RenderParams, open_checkpoint
from svd_engine.checkpoint import Checkpoint
from svd_engine.config_files import CheckpointError
from svd_engine.tiny import write_tiny
from tests.support.reference import load_pipeline, record, relative_difference

CPU = torch.device("cpu")
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    """A copy of `tiny` to spoil."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def test_tiny_is_small_and_the_same_each_time(tiny: Path, tmp_path: Path) -> None:
    again = write_tiny(tmp_path / "again")
    files = sorted(p.relative_to(tiny) for p in tiny.rglob("*") if p.is_file())
    assert all((tiny / f).read_bytes() == (again / f).read_bytes() for f in files)
    assert sum((tiny / f).stat().st_size for f in files) < 20e6
    assert write_tiny(tmp_path / "other", seed=1).joinpath(UNET).read_bytes() != (
        (tiny / UNET).read_bytes()
    )


def test_tiny_loads_in_diffusers_and_agrees(tiny: Path, picture: Image.Image) -> None:
    call: dict[str, Any] = {"width": 64, "height": 64, "num_frames": 4, "num_inference_steps": 2}
    tape = record(load_pipeline(tiny), picture, seed=1, **call)
    clip = Engine.from_pretrained(tiny).render(picture, RenderParams(seed=1, **call))
    assert relative_difference(clip.latents, tape.latents[-1][0]) <= 1e-4


def test_tiny_by_name_is_built_into_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = open_checkpoint("tiny")
    assert first.folder.is_relative_to(tmp_path)
    written = first.folder.joinpath(UNET).stat().st_mtime_ns
    assert open_checkpoint("tiny").folder.joinpath(UNET).stat().st_mtime_ns == written
    assert [p.name for p in first.folder.parent.iterdir()] == [first.folder.name]


def test_tiny_refuses_a_folder_with_files(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="not empty"):
        write_tiny(tmp_path)


def test_a_component_loads_alone(model: Path) -> None:
    shutil.rmtree(model / "unet")
    vae = Checkpoint(model).load_vae(CPU, torch.float32)
    assert {p.device.type for p in vae.parameters()} == {"cpu"}
    assert not any(p.requires_grad for p in vae.parameters())


def test_dtype(tiny: Path) -> None:
    unet = open_checkpoint(tiny).load_unet(CPU, torch.bfloat16)
    assert {p.dtype for p in unet.parameters()} == {torch.bfloat16}


def test_missing_tensor(model: Path) -> None:
    edit_tensors(model / UNET, lambda t: t.pop("conv_in.bias"))
    with pytest.raises(CheckpointError, match=r"conv_in\.bias is missing"):
        Checkpoint(model).load_unet(CPU, torch.float32)


def test_extra_tensor(model: Path) -> None:
    edit_tensors(model / UNET, lambda t: t.update(surplus=torch.zeros(1)))
    with pytest.raises(CheckpointError, match="surplus is not part of the network"):
        Checkpoint(model).load_unet(CPU, torch.float32)


def test_misshapen_tensor(model: Path) -> None:
    edit_tensors(model / UNET, lambda t: t.update({"conv_in.bias": torch.zeros(5)}))
    with pytest.raises(CheckpointError, match=r"conv_in\.bias has shape \(5,\), not \(32,\)"):
        Checkpoint(model).load_unet(CPU, torch.float32)


def test_quantized_tensor(model: Path) -> None:
    edit_tensors(
        model / UNET, lambda t: t.update({"conv_in.bias": torch.zeros(32, dtype=torch.int8)})
    )
    with pytest.raises(CheckpointError, match=r"conv_in\.bias holds I8"):
        Checkpoint(model).load_unet(CPU, torch.float32)


def test_truncated_file(model: Path) -> None:
    path = model / UNET
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        Checkpoint(model).load_unet(CPU, torch.float32)


def test_pickles_are_refused(model: Path) -> None:
    (model / UNET).unlink()
    (model / "unet/diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match=r"\.bin is a pickle.*safetensors"):
        Engine.from_pretrained(model)


def test_sharded_index(model: Path) -> None:
    tensors = load_file(model / UNET)
    keys = sorted(tensors)
    shards = {"a-00001-of-00002.safetensors": keys[::2], "a-00002-of-00002.safetensors": keys[1::2]}
    for name, part in shards.items():
        save_file({key: tensors[key] for key in part}, model / "unet" / name)
    weight_map = {key: name for name, part in shards.items() for key in part}
    index = model / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (model / UNET).unlink()
    unet = Checkpoint(model).load_unet(CPU, torch.float32)
    assert all(torch.equal(value, tensors[key]) for key, value in unet.state_dict().items())
    (model / "unet/a-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="00002-of-00002"):
        Checkpoint(model).load_unet(CPU, torch.float32)


def test_sharded_as_diffusers_shards(tiny: Path, tmp_path: Path) -> None:
    pipeline = load_pipeline(tiny, torch.float16)
    pipeline.save_pretrained(tmp_path, variant="fp16", max_shard_size="4MB")
    assert len(list((tmp_path / "unet").glob("*-of-*.safetensors"))) > 1
    unet = Checkpoint(tmp_path, "fp16").load_unet(CPU, torch.float32)
    theirs = pipeline.unet.state_dict()
    assert all(torch.equal(v, theirs[key].float()) for key, v in unet.state_dict().items())


def test_variant(model: Path) -> None:
    for component in ("unet", "vae", "image_encoder"):
        (path,) = (model / component).glob("*.safetensors")
        path.rename(path.with_suffix(".fp16.safetensors"))
    assert Engine.from_pretrained(model, variant="fp16").unet.dtype == torch.float32
    with pytest.raises(CheckpointError, match=r"it has .*fp16.*variant"):
        Engine.from_pretrained(model)


def test_old_position_ids_are_passed_over(model: Path) -> None:
    path = model / "image_encoder/model.safetensors"
    key = "vision_model.embeddings.position_ids"
    edit_tensors(path, lambda t: t.update({key: torch.arange(50)[None]}))
    Checkpoint(model).load_image_encoder(CPU, torch.float32)


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("unet/config.json", {"in_channels": 4}, "in_channels must be twice out_channels"),
        ("unet/config.json", {"down_block_types": ["DownBlock2D"] * 4}, "down_block_types"),
        ("unet/config.json", {"num_attention_heads": [5, 10]}, "num_attention_heads has 2 entries"),
        ("unet/config.json", {"cross_attention_dim": 128}, "projection_dim 64"),
        ("unet/config.json", {"time_cond_proj_dim": 7}, "time_cond_proj_dim"),
        ("vae/config.json", {"block_out_channels": [32, 64]}, "block_out_channels"),
        ("vae/config.json", {"latent_channels": 16}, "the VAE reads 16"),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}, "prediction_type"),
        ("scheduler/scheduler_config.json", {"use_karras_sigmas": False}, "use_karras_sigmas"),
        ("image_encoder/config.json", {"image_size": 336}, "image_size"),
        ("render_defaults.json", {"width": 100}, "width.*multiple of 8"),
    ],
)
def test_unsupported_config(model: Path, file: str, changes: dict[str, object], words: str) -> None:
    edit_json(model / file, **changes)
    with pytest.raises(CheckpointError, match=words):
        Engine.from_pretrained(model)


def test_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not an SVD checkpoint"):
        Engine.from_pretrained(tmp_path)
    (tmp_path / "image_encoder").mkdir()
    (tmp_path / "image_encoder/config.json").write_text("{nonsense")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Engine.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["nonsense", "./missing", "/missing/folder", "a/b/c"])
def test_unknown_name(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"No model .* svd-xt"):
        Engine.from_pretrained(name)


@pytest.mark.parametrize("name", ["svd", "owner/model"])
def test_hub_out_of_reach(name: str) -> None:
    """The tests run with HF_HUB_OFFLINE set."""
    with pytest.raises(CheckpointError, match="from the hub"):
        Engine.from_pretrained(name)


def test_digest_follows_weights_and_configs(model: Path) -> None:
    before = Checkpoint(model).digest
    assert Checkpoint(model).digest == before
    edit_tensors(model / UNET, lambda t: t["conv_in.bias"].add_(1e-3))
    changed = Checkpoint(model).digest
    assert changed != before
    edit_json(model / "scheduler/scheduler_config.json", sigma_max=80.0)
    assert Checkpoint(model).digest not in (before, changed)
