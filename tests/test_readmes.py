"""What the READMEs say is there: links, files, settings, commands, options, names in code."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from farm.batch.manifest import parse_manifest
from farm.settings import KEYS, VARIABLES, Settings, load_settings
from tests.support.commands import CommandError, all_options, check_command
from tests.support.http_samples import SampleError, check_request, check_sample, samples
from tests.support.names import NameFault, check_names
from tests.support.pages import ROOT, Command, Page, pages

PAGES = pages()
SETTINGS = set(VARIABLES)
# Pytest's, and mistakes that a page speaks of.
OTHERS = {"--durations", "--help", "--sedes"}


def each_page(*names: str) -> pytest.MarkDecorator:
    chosen = [page for page in PAGES if not names or str(page) in names]
    return pytest.mark.parametrize("page", chosen, ids=str)


def page(name: str) -> Page:
    (found,) = (each for each in PAGES if str(each) == name)
    return found


def test_every_part_has_a_readme() -> None:
    wanted = {"README.md", "deploy/README.md", "examples/train_nano/README.md", "tests/README.md"}
    wanted |= {"farm/README.md", "farm/batch/README.md", "farm/ingress/README.md"}
    wanted |= {"svd_engine/README.md", "svd_engine/nano/README.md"}
    assert wanted <= {str(each) for each in PAGES}


@each_page()
def test_links_lead_somewhere(page: Page) -> None:
    for link in page.links:
        path, _, anchor = link.partition("#")
        if re.match(r"https?:", path):
            continue
        target = (page.path.parent / path).resolve() if path else page.path
        assert target.exists(), f"{page}: {link}"
        readme = target / "README.md" if target.is_dir() else target
        assert not anchor or anchor in Page(readme).anchors, f"{page}: {link}"


@each_page()
def test_files_that_are_named_exist(page: Page) -> None:
    missing = [name for name, places in page.files if not any(map(Path.exists, places))]
    assert not missing


def test_every_setting_is_in_the_table_and_nothing_else_is_called_one() -> None:
    table = page("farm/README.md").text.partition("\n## Settings\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`FARM_[^|]*) \|", table, re.MULTILINE)
    assert set(re.findall(r"FARM_[A-Z0-9_]+", " ".join(rows))) == SETTINGS
    for each in PAGES:
        assert set(re.findall(r"FARM_[A-Z0-9_]*[A-Z0-9]", each.text)) <= SETTINGS, str(each)


def test_defaults_in_the_table_are_the_settings_own() -> None:
    rows = re.findall(
        r"^\| `FARM_(\w+)` \|.*\| `?([\d.]+|true|false)`? \|$",
        page("farm/README.md").text,
        re.MULTILINE,
    )
    assert len(rows) > 5
    for name, text in rows:
        default = Settings.model_fields[name.lower()].default
        assert float({"true": 1, "false": 0}.get(text, text)) == float(default), name


COMMANDS = [command for each in PAGES for command in each.commands]


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_commands_are_taken_by_their_programs(
    command: Command, pytestconfig: pytest.Config
) -> None:
    if command.words[0] == "curl":
        check_request(command.words)
    else:
        check_command(command.words, pytestconfig)


@each_page()
def test_options_in_prose_exist(page: Page) -> None:
    named = set(re.findall(r"`(--[a-z][a-z-]+)", page.prose))
    assert named <= all_options() | OTHERS


@pytest.mark.parametrize(
    "words",
    [
        ("python", "-m", "farm.batch", "a.png", "--out", "b", "--sedes", "3"),
        ("python", "-m", "farm.batch", "a.png", "--out", "b", "--fps", "0"),
        ("python", "-m", "svd_engine", "render", "a.png", "--out", "b", "--fit", "crp"),
        ("python", "-m", "svd_engine", "rendr", "a.png"),
        ("python", "-m", "farm", "stats"),
        ("farm", "logs", "JOB", "--folow"),
        ("python", "-m", "farm.bnch", "http"),
        ("python", "-m", "tests.report", "--fast"),
        ("python", "examples/none.py"),
        ("pytest", "tests/test_none.py"),
        ("pytest", "-m", "slw", "tests"),
        ("pytest", "--fast"),
        ("make", "demos"),
        ("pip", "install", "-e", ".[farms]"),
        ("pip", "install", "-c", "constraints.txt", "-e", "."),
        ("ray", "start", "--haed"),
        ("ray", "job", "submit", "--", "python", "-m", "farm.batch", "--uot", "b"),
        ("serve", "run", "farm.ingress.serve_app:ap"),
        ("serve", "run", "farm.ingress.serve:app"),
        ("kubectl", "apply", "-k", "deploy/kubernetes/overlays/cpus"),
        ("kubectl", "drain", "NODE", "--ignore-daemon-sets"),
        ("kubectl", "aply", "-k", "."),
        ("rm", "-r", "demo"),
    ],
    ids=" ".join,
)
def test_wrong_commands_are_found(words: tuple[str, ...], pytestconfig: pytest.Config) -> None:
    with pytest.raises(CommandError):
        check_command(words, pytestconfig)


PYTHON = [block for each in PAGES for block in each.blocks if block.language == "python"]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_uses_what_there_is(block: object) -> None:
    check_names(getattr(block, "code", ""))


@pytest.mark.parametrize(
    "code",
    [
        "import farm\nfarm.submti('a.png')",
        "import farm\nfarm.submit('a.png', sed=3)",
        "from svd_engine import Engin",
        "from svd_engine import RenderParams\nRenderParams(step=3)",
        "from svd_engine import Engine\nEngine.from_pretrained(dvice='cpu')",
        "import farm\nfarm.submit('a.png').wiat()",
        "import farn",
    ],
)
def test_wrong_names_are_found(code: str) -> None:
    with pytest.raises(NameFault):
        check_names(code)


@pytest.mark.parametrize(
    "sample", [sample for each in PAGES for sample in samples(each)], ids=lambda each: each.where
)
def test_sample_answers_are_what_the_api_says(sample: object) -> None:
    check_sample(sample)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "words",
    [
        "curl http://h/v1/video",
        "curl -X PUT http://h/v1/videos",
        "curl -F input_reference=@a.png -F sed=7 http://h/v1/videos",
        "curl http://h/v1/videos?lmit=3",
        "curl --sillent http://h/v1/videos",
    ],
)
def test_wrong_requests_are_found(words: str) -> None:
    with pytest.raises(SampleError):
        check_request(tuple(words.split()))


def test_the_readme_for_newcomers_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_keys_and_manifests_are_such_as_the_farm_reads() -> None:
    keys = [block for each in PAGES for block in each.blocks if "SHA256_OF_THE_KEY" in block.code]
    for block in keys:
        assert KEYS.validate_json(block.code.replace("SHA256_OF_THE_KEY", "0" * 64)), str(block)
    tables = [block for each in PAGES for block in each.blocks if block.language == "csv"]
    for block in tables:
        assert len(parse_manifest(block.code.encode(), "rows.csv")) == block.code.count("\n") - 1
    assert keys
    assert tables


def test_settings_files_are_such_as_the_farm_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [block for each in PAGES for block in each.blocks if block.language == "toml"]
    assert blocks
    monkeypatch.setenv("FARM_CONFIG", str(tmp_path / "farm.toml"))
    for block in blocks:
        (tmp_path / "farm.toml").write_text(block.code)
        assert load_settings().model_fields_set, str(block)


# What takes a GPU, a download, or minutes.
HEAVY = ("bench", "tiers", "--implementation")
SMALL = {"svd-xt": "my-tiny", "cuda": "cpu", "float16": "float32", "--variant": "--dtype"}
SIZE = ("--model", "my-tiny", "--width", "64", "--height", "64", "--num-frames", "2")


@pytest.mark.slow
def test_the_engines_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small checkpoint in the place of the published one, in the order of a reader."""
    from svd_engine.__main__ import main

    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "tests/pictures/flower.jpg", "photo.jpg")
    ran = set()
    found = [each.words for each in page("svd_engine/README.md").commands]
    ours = [words[3:] for words in found if words[:3] == ("python", "-m", "svd_engine")]
    first = [words for words in ours if words[0] in ("tiny", "trace")]
    for words in first + [words for words in ours if words not in first]:
        if set(words) & set(HEAVY):
            continue
        small = [SMALL.get(word, "float32" if word == "fp16" else word) for word in words]
        if words[0] in ("render", "trace", "diagnose"):
            few = () if {"--steps", "--tier"} & set(words) else ("--num-inference-steps", "2")
            small += [*SIZE, *few]
        assert main(small) in (0, 1), words
        ran.add(words[0])
        if words[0] == "trace":
            shutil.copytree(tmp_path, "theirs", ignore=lambda *_: {"my-tiny"}, dirs_exist_ok=True)
            _record_last_blocks()
    assert ran == {"tiny", "render", "trace", "diagnose", "compare", "memory"}


def _record_last_blocks() -> None:
    """Record the last blocks of two networks, whose results are the networks' own."""
    from svd_engine.conformance.traces import Trace, open_trace

    theirs = open_trace(Path("theirs"))
    Path("blocks").mkdir(exist_ok=True)
    last = {"clip.visual_projection": "clip.embedding", "unet.conv_out": "step.000.model_output"}
    blocks = Trace({block: theirs[key] for block, key in last.items() if key in theirs})
    blocks.save(Path("blocks/last.safetensors"))


def test_make_knows_how_to_do_what_the_readme_says() -> None:
    targets = [each.words[1] for each in page("README.md").commands if each.words[0] == "make"]
    assert {"demo", "serve", "test", "check"} <= set(targets)
    subprocess.run(["make", "--dry-run", *targets], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")  # OpenAI closed its own
def test_three_ways_give_the_same_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: None
) -> None:
    from tests.support.ingress_server import serving

    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "examples/pictures/coffee.jpg", "photo.jpg")
    clips = []
    with serving(tmp_path / "store", models=["nano"]) as url:
        for block in page("README.md").blocks:
            if block.language == "python":
                exec(block.code.replace("http://127.0.0.1:8000", url), {})
                clips.append(Path("clip.mp4").read_bytes())
    assert len(clips) == 3
    assert len(set(clips)) == 1


def test_the_messages_people_meet_are_the_programs_own() -> None:
    (table,) = re.findall(r"\| message \| .*?\n\n", (ROOT / "README.md").read_text(), re.DOTALL)
    messages = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(messages) == 10
    programs = [
        path.read_text() for name in ("farm", "svd_engine") for path in (ROOT / name).rglob("*.py")
    ]
    for message in messages:
        told = message.removeprefix("cannot get 'stabilityai/...' ")
        assert any(told in program for program in programs), message
