"""Blocks inside the networks, judged against those of diffusers, right and with mistakes."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from svd_engine import Engine
from svd_engine.__main__ import main
from svd_engine.conformance.diagnose import diagnose
from svd_engine.conformance.findings import Finding, Verdict
from svd_engine.conformance.inside import Inside, blocks_of, look_inside
from svd_engine.conformance.replay import Case
from svd_engine.conformance.report import report
from svd_engine.conformance.traces import Trace, split_key
from tests.support.port_blocks import FRAMES, MISTAKES, STEPS, UNUSED, Port, right
from tests.support.traced import NAMES, some_by_default


@pytest.fixture(scope="module")
def ports(
    checkpoints: dict[str, Path], engines: dict[str, Engine], picture: Image.Image
) -> dict[str, Port]:
    return {name: Port(name, checkpoints[name], engines[name], picture) for name in NAMES}


@pytest.fixture(scope="module")
def recorded(
    ports: dict[str, Port], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Case, Trace]:
    """A case, and right blocks of it."""
    return ports[NAMES[0]].recorded(tmp_path_factory.mktemp("right"), right, torch.float32)


def expect_right(name: str, case: Case, blocks: Trace) -> None:
    found = look_inside(case, blocks)
    wrong = {f.key: (f.right, f.note) for f in found.findings if f.verdict is not Verdict.RIGHT}
    assert wrong == {}
    assert found.not_judged == ()
    names = {split_key(key)[0].removeprefix("step.") for key in blocks}
    assert set(blocks_of(case)) - names == ({UNUSED} if name == "shallow" else set())
    assert len(blocks) == sum(STEPS if name.startswith("unet.") else 1 for name in names)


def test_every_block_of_diffusers_is_right(recorded: tuple[Case, Trace]) -> None:
    expect_right(NAMES[0], *recorded)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [  # in the default run, the planted mistakes show that the other blocks of both are right
        (NAMES[0], torch.bfloat16),
        pytest.param(NAMES[1], torch.float32, marks=pytest.mark.slow),
        pytest.param(NAMES[1], torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_every_block_of_diffusers_is_right_in_other_cases(
    name: str, dtype: torch.dtype, ports: dict[str, Port], tmp_path: Path
) -> None:
    expect_right(name, *ports[name].recorded(tmp_path, right, dtype))


@pytest.mark.parametrize(
    ("name", "where"),
    [each for each in some_by_default(MISTAKES, one_in=4) if each.values != ("shallow", UNUSED)],
)
def test_a_mistake_shows_in_its_block_and_nowhere_else(
    name: str,
    where: str,
    ports: dict[str, Port],
    tmp_path: Path,
) -> None:
    case, blocks = ports[name].recorded(tmp_path, MISTAKES[where], torch.float32)
    found = look_inside(case, blocks)
    departs = [finding.key for finding in found.findings if finding.departs]
    steps = range(STEPS) if where.startswith("unet.") else [None]
    assert departs == [where if n is None else f"step.{n:03d}.{where}" for n in steps]
    assert Verdict.UNKNOWN not in verdicts(found).values()
    assert found.not_judged == ()


CONV_IN, RESNET, ATTENTION = (
    "unet.conv_in",
    "unet.mid_block.resnets.0",
    "unet.mid_block.attentions.0",
)
# What a trace must have for the UNet's blocks of its second step.
INPUTS = ("clip.embedding", "time_ids", "timesteps", "step.001.model_input")


def only(theirs: Trace, *keys: str) -> Trace:
    return Trace({key: theirs[key] for key in keys})


def verdicts(found: Inside) -> dict[str, Verdict]:
    return {finding.key: finding.verdict for finding in found.findings}


def test_a_block_of_another_shape_is_not_judged(recorded: tuple[Case, Trace]) -> None:
    case, theirs = recorded
    key, after = f"step.000.{RESNET}", f"step.000.{ATTENTION}"
    found = look_inside(case, Trace({**only(theirs, after), key: theirs[key][:, :-1]}))
    assert verdicts(found) == {key: Verdict.UNKNOWN, after: Verdict.RIGHT}
    b, c, h, w = theirs[key].shape
    assert found.findings[0].note == f"is {[b, c - 1, h, w]}, not {[2, b // 2, c, h, w]}"


@pytest.mark.parametrize(
    "name",
    [
        "unet.mid_block.resnets.0.temporal_res_block",  # computed together with its blend
        "unet.mid_block.attentions.0.temporal_transformer_blocks.0",
        "unet.mid_block.attentions.0.time_pos_embed",
        "unet.mid_block.resnets.0.spatial_res_block.conv1",
        "unet.conv_norm_out",
        "unet.mid_block",
        "vae.decoder.time_conv_out",
        "clip.vision_model.encoder",
        "unet.no_such_block",
    ],
)
def test_what_is_no_block_is_listed(name: str, recorded: tuple[Case, Trace]) -> None:
    case, theirs = recorded
    conv_in = f"step.001.{CONV_IN}"
    blocks = Trace({conv_in: theirs[conv_in], name: torch.ones(3)})
    found = diagnose(replace(case, trace=only(case.trace, *INPUTS)), blocks=blocks)
    assert {f.key: f.verdict for f in found.findings}[conv_in] is Verdict.RIGHT
    assert found.not_judged == (name,)
    assert found.exit_status == 2
    assert f"or not at all: {name}" in "\n".join(report(found))


def test_a_block_that_does_not_run_is_not_judged(recorded: tuple[Case, Trace]) -> None:
    case, _ = recorded
    assert look_inside(case, Trace({UNUSED: torch.ones(3)})) == Inside((), (UNUSED,))


@pytest.mark.parametrize("lacks", INPUTS)
def test_blocks_without_the_input_of_their_network(
    lacks: str, recorded: tuple[Case, Trace]
) -> None:
    case, theirs = recorded
    key = f"step.001.{CONV_IN}"
    kept = only(case.trace, *(name for name in INPUTS if name != lacks))
    found = look_inside(replace(case, trace=kept), only(theirs, key))
    assert [(f.key, f.verdict, f.note) for f in found.findings] == [
        (key, Verdict.UNKNOWN, f"needs {lacks}")
    ]
    assert found.not_judged == ()


def test_layouts_and_names_without_a_step(recorded: tuple[Case, Trace]) -> None:
    case, theirs = recorded
    resnet, attention = theirs[f"step.000.{RESNET}"], theirs[f"step.000.{ATTENTION}"]
    clips = resnet.unflatten(0, (-1, FRAMES)).transpose(1, 2)
    found = look_inside(case, Trace({RESNET: clips, ATTENTION: attention}))
    notes = {finding.key: (finding.verdict, finding.note) for finding in found.findings}
    assert notes == {
        RESNET: (Verdict.RIGHT, "as [B, C, F, H, W]"),
        ATTENTION: (Verdict.RIGHT, "as [B*F, C, H, W]"),
    }


def test_a_block_is_described(recorded: tuple[Case, Trace]) -> None:
    case, theirs = recorded
    key = f"step.000.{RESNET}"
    found = look_inside(case, Trace({key: 2 * theirs[key]})).findings[0]
    assert (found.verdict, found.relation[:11]) == (Verdict.UNEXPLAINED, "2.000 times")
    nan = torch.full_like(theirs[key], torch.nan)
    found = look_inside(case, Trace({key: nan})).findings[0]
    assert (found.verdict, found.note) == (Verdict.UNEXPLAINED, "holds NaN or Inf")


def test_reused_steps_are_refused_before_anything_is_computed(
    recorded: tuple[Case, Trace],
) -> None:
    case, theirs = recorded
    reused = replace(case, params=case.params.model_copy(update={"reuse_interval": 2}))
    findings = list[Finding]()
    with pytest.raises(
        ValueError, match=r"with a reuse_interval of 2, .* with a reuse_interval of 1"
    ):
        diagnose(reused, findings.append, blocks=theirs)
    assert findings == []


def test_the_command(
    recorded: tuple[Case, Trace],
    ports: dict[str, Port],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case, theirs = recorded
    wrong = f"step.001.{RESNET}"
    kept = only(theirs, f"step.001.{CONV_IN}")
    Trace({**kept, wrong: theirs[wrong].flip(-1)}).save(tmp_path / "blocks.safetensors")
    about = {"params": case.params.model_dump()}
    Trace(only(case.trace, *INPUTS).homes, about).save(tmp_path / "theirs.safetensors")
    port = ports[NAMES[0]]
    port.picture.save(tmp_path / "picture.png")
    files = [str(tmp_path / name) for name in ("theirs.safetensors", "picture.png")]
    command = ["diagnose", files[0], "--picture", files[1], "--model", str(port.folder)]
    command += ["--inside", str(tmp_path / "blocks.safetensors")]
    assert main(command) == 2
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith(wrong))
    assert re.search("unexplained +right .*mirrored left to right", line)
    assert f"inside the networks, the first block that departs is {wrong}" in lines
    assert main([*command, "--json"]) == 2
    stages = json.loads(capsys.readouterr().out)["stages"]
    judged = {stage["key"]: stage["verdict"] for stage in stages}
    assert {key: judged[key] for key in (*kept, wrong)} == {
        **dict.fromkeys(kept, "right"),
        wrong: "unexplained",
    }
    assert main([*command, "--tier", "reuse", "--reuse-interval", "2", "--steps", "3"]) == 2
    assert "error: --inside: with a reuse_interval of 2" in capsys.readouterr().err
