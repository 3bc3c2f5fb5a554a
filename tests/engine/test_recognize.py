"""Files and folders that are not models are recognized without reading their weights."""

import json
import shutil
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farm.model.request import Model
from farm.workers.engines import describe
from svd_engine.__main__ import main
from svd_engine.checkpoint import open_checkpoint
from svd_engine.config_files import CheckpointError
from svd_engine.recognize import explain_file

PICTURE = Path(__file__).parents[2] / "examples/pictures/cat.webp"
SGM = (
    "model.diffusion_model.input_blocks.1.0.time_stack.in_layers.0.weight",
    "conditioner.embedders.0.open_clip.model.ln_final.bias",
    "first_stage_model.decoder.conv_out.time_mix_conv.weight",
)
UNET = ("down_blocks.0.resnets.0.temporal_res_block.conv1.weight", "conv_in.weight")


def safetensors(path: Path, keys: Iterable[str], kind: str = "F16", **metadata: str) -> Path:
    """A whole file of that head; a tensor is two bytes."""
    size = 1 if kind in ("F8_E4M3", "F8_E5M2", "I8", "U8") else 2
    head: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    for n, key in enumerate(keys):
        head[key] = {"dtype": kind, "shape": [1], "data_offsets": [size * n, size * n + size]}
    text = json.dumps(head).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        struct.pack("<Q", len(text)) + text + bytes(size * (len(head) - bool(metadata)))
    )
    return path


def of(*keys: str, kind: str = "F16", name: str = "x.safetensors") -> Callable[[Path], Path]:
    return lambda folder: safetensors(folder / name, keys, kind)


def raw(name: str, data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "sgm": (of(*SGM), r"Stable Video Diffusion as a single file.* not supported yet.*F16"),
    "sgm fp8": (of(*SGM, kind="F8_E4M3"), r"as a single file.*F8_E4M3: 8-bit floats.*take the fl"),
    "sgm lcm": (of(*SGM, name="AnimateLCM-SVD.safetensors"), r"single file.*by its name.*LCM"),
    "sgm UNet": (
        of("input_blocks.1.0.time_stack.out_layers.3.bias"),
        "Video Diffusion as a single",
    ),
    "a UNet": (of(*UNET), r"holds a network of Stable Video Diffusion.*folder of the whole"),
    "lora, kohya": (of("lora_unet_down_blocks_0.lora_up.weight"), "is a LoRA"),
    "lora, peft": (of("base_model.model.unet.to_q.lora_A.weight"), "is a LoRA"),
    "lora, diffusers": (of("unet.down_blocks.0.to_q.lora.down.weight"), "is a LoRA"),
    "loha": (of("lora_te_x.hada_w1_a"), "is a LoRA"),
    "lcm": (of("time_embedding.cond_proj.weight", *UNET), "is an LCM.*only with Euler"),
    "animatediff": (of("down_blocks.0.motion_modules.0.proj.weight"), "motion module of AnimateD"),
    "controlnet": (of("control_model.input_blocks.0.0.weight"), "is a ControlNet"),
    "sd 1.5": (of("model.diffusion_model.x", "cond_stage_model.y"), "Stable Diffusion as a single"),
    "sdxl": (of("model.diffusion_model.x", "conditioner.embedders.1.model.y"), "SDXL as a single"),
    "sd 3": (of("model.diffusion_model.joint_blocks.0.x"), "Stable Diffusion 3"),
    "flux": (of("double_blocks.0.img_attn.qkv.weight"), "transformer like those of Flux"),
    "cogvideox": (of("transformer_blocks.0.norm1.linear.weight"), "video transformer"),
    "others": (of("a", "b"), "of an unknown model"),
    "ckpt, zip": (raw("svd.ckpt", b"PK\3\4" + bytes(40)), "is a pickle.*runs whatever code"),
    "ckpt, old": (raw("svd.safetensors", b"\x80\2}q\0."), "is a pickle"),
    "pth": (raw("svd.pth", b"what ever"), "is a pickle"),
    "gguf": (raw("svd.safetensors", b"GGUF\3\0\0\0"), "GGUF file, with quantized"),
    "onnx": (raw("unet.onnx", b"\x08\x07"), "ONNX export"),
    "lfs": (raw("x.safetensors", b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "html": (raw("x.safetensors", b"<!DOCTYPE html><html>"), "web page"),
    "empty": (raw("x.safetensors", b""), "is empty: download it again"),
    "noise": (raw("x.safetensors", bytes(range(256))), "not a safetensors file"),
    "a text": (raw("notes.txt", b"these are notes"), "not a safetensors file"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_told_for_what_it_is(kind: str, tmp_path: Path) -> None:
    make, words = FILES[kind]
    path = make(tmp_path)
    for model in (path, tmp_path):  # alone, and as what a folder has in it
        if model == tmp_path and path.suffix == ".txt":
            continue
        with pytest.raises(CheckpointError, match=words) as caught:
            open_checkpoint(model).check()
        assert path.name in str(caught.value)


@pytest.mark.parametrize("kind", ["sgm", "lora, kohya", "gguf", "ckpt, zip", "sgm fp8"])
def test_the_same_from_every_door(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = FILES[kind]
    (tmp_path / "m").mkdir()
    model = str(make(tmp_path / "m"))
    safetensors(tmp_path / "theirs.safetensors", ["sigmas"], "F16")
    messages = []
    for command in (
        ["render", str(PICTURE), "--out", str(tmp_path / "x.mp4")],
        ["trace", str(PICTURE), "--out", str(tmp_path / "x.safetensors")],
        ["diagnose", str(tmp_path / "theirs.safetensors"), "--picture", str(PICTURE)],
    ):
        assert main([*command, "--model", model]) == 2
        messages.append(capsys.readouterr().err)
    with pytest.raises(ValueError, match=words) as caught:
        describe(Model(name=model))  # what the farm asks, for batch, Python and HTTP
    assert {text.strip() for text in messages} == {f"error: {caught.value}"}


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        ("StableDiffusionPipeline", "Stable Diffusion, which makes pictures"),
        ("StableDiffusionXLPipeline", "SDXL"),
        ("AnimateDiffPipeline", "AnimateDiff"),
        ("CogVideoXImageToVideoPipeline", "CogVideoX"),
        ("WanPipeline", "a WanPipeline: another pipeline"),
    ],
)
def test_a_folder_of_another_pipeline(
    pipeline: str, words: str, tiny: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny, tmp_path / "model"))
    (model / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    with pytest.raises(CheckpointError, match=f"{words}.*give a model of Stable Video Diffusion"):
        open_checkpoint(model).check()


def test_a_component_with_other_things_in_it(tiny: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny, tmp_path / "model"))
    (model / "unet/diffusion_pytorch_model.safetensors").unlink()
    (model / "unet/README.md").write_text("read me")
    (model / "unet/a folder.bin").mkdir()
    with pytest.raises(CheckpointError, match=r"unet has no diffusion_pytorch_model.safetensors"):
        open_checkpoint(model).check()
    (model / "unet/model.onnx").write_bytes(b"\x08")
    with pytest.raises(CheckpointError, match=r"model\.onnx is an ONNX export"):
        open_checkpoint(model).check()


def test_a_pipeline_of_which_only_the_unet_tells(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    with pytest.raises(CheckpointError, match="UNet2DConditionModel as its UNet: Stable Diffusion"):
        open_checkpoint(tmp_path).check()


def test_folders_around_a_model(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "models/mine")
    with pytest.raises(CheckpointError, match=r"contains one: give .*/models/mine$"):
        open_checkpoint(tmp_path / "models").check()
    shutil.copytree(tiny, tmp_path / "models--a--b/snapshots/0123")
    with pytest.raises(CheckpointError, match=r"give .*/snapshots/0123$"):
        open_checkpoint(tmp_path / "models--a--b").check()
    (tmp_path / "t/transformer").mkdir(parents=True)
    (tmp_path / "t/transformer/config.json").write_text('{"_class_name": "CogVideoXTransformer3D"}')
    with pytest.raises(CheckpointError, match="model with a CogVideoXTransformer3D, not SVD"):
        open_checkpoint(tmp_path / "t").check()
    (tmp_path / "o/unet").mkdir(parents=True)
    (tmp_path / "o/unet/model.onnx").write_bytes(b"\x08")
    with pytest.raises(CheckpointError, match=r"o is an ONNX export \(unet/model.onnx\)"):
        open_checkpoint(tmp_path / "o").check()


@pytest.mark.parametrize(
    ("keys", "kind", "words"),
    [
        (UNET, "F8_E4M3", "cannot be used .*F8_E4M3: 8-bit floats"),
        (UNET, "U8", "cannot be used .*U8: quantized"),
        (["lora_unet_x.lora_up.weight"], "F16", "is a LoRA"),
        (["time_embedding.cond_proj.weight", *UNET], "F16", "is an LCM"),
    ],
)
def test_weights_in_a_right_folder(
    keys: Iterable[str], kind: str, words: str, tiny: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny, tmp_path / "model"))
    safetensors(model / "unet/diffusion_pytorch_model.safetensors", keys, kind)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(model).check()


@pytest.mark.parametrize(
    "name", ["no/such.safetensors", "such.ckpt", "x" * 5000, "/dev/null", "svd-xtt"]
)
def test_names_of_nothing(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"No model|neither a folder nor a file") as caught:
        open_checkpoint(name)
    assert ("Did you mean 'svd-xt" in str(caught.value)) == (name == "svd-xtt")


HEADS = st.one_of(
    st.binary(max_size=300),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5) | st.booleans(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["a", "dtype", "data_offsets", "__metadata__"]), inner
            )
        ),
    ).map(
        lambda value: (lambda text: struct.pack("<Q", len(text)) + text)(json.dumps(value).encode())
    ),
)


@given(HEADS)
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_a_file_holds_it_is_told(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    assert explain_file(path).startswith(str(path))


@given(st.data())
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_file_cut_short_is_told(tmp_path: Path, data: st.DataObject) -> None:
    whole = safetensors(tmp_path / "whole.safetensors", SGM).read_bytes()
    path = tmp_path / "x.safetensors"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert "not a " in explain_file(path) or "is empty" in explain_file(path)
