"""The image for CPUs, built without Docker: each RUN, and what is started, in a Debian root."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.docker_files import instructions, texts
from tests.deploy.image import Build, context, is_ignored
from tests.support.debian_root import DebianRoot, bootstrap, why_not
from tests.support.farm_jobs import wait_for
from tests.support.pages import ROOT

IMAGE, IGNORE = "deploy/Dockerfile", ".dockerignore"
# What the Dockerfile says that is written to when the root is read-only.
WRITABLE = ("/tmp", "/cache", "/data", "/dev/shm")
PATIENCE_S = 240.0


def test_the_context_is_what_the_image_needs() -> None:
    ignore = texts()[IGNORE].splitlines()
    sent = {str(path) for path in context(ROOT, ignore)}
    assert {"LICENSE", "farm/__init__.py", "deploy/docker/start.sh"} <= sent
    assert not [path for path in sent if path.startswith(("tests/", ".git", "deploy/kubernetes"))]
    assert is_ignored(Path("farm/store/__pycache__/s3.pyc"), ignore)
    assert is_ignored(Path("deploy/docker/keys.json"), ignore)


@pytest.fixture(scope="module")
def built() -> Iterator[tuple[Build, DebianRoot]]:
    if reason := why_not():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="image-"))
    try:
        bootstrap(folder / "base")
        files = texts()
        build = Build(files[IMAGE], files[IGNORE], folder / "base", folder)
        yield build, build.target("cpu")
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.timeout(1500)
class TestImage:
    def test_each_run_was_carried_out(self, built: tuple[Build, DebianRoot]) -> None:
        asked = [rest for word, rest in instructions(texts()[IMAGE]) if word == "RUN"]
        assert built[0].ran == asked
        mounts = Path("/proc/mounts").read_text()
        assert str(built[1].folder) not in mounts

    def test_its_user_renders_and_changes_no_program(self, built: tuple[Build, DebianRoot]) -> None:
        _, image = built
        small = ["--width=64", "--height=64", "--num-frames=3", "--num-inference-steps=2"]
        render = ["python", "-m", "svd_engine", "render", "examples/pictures/rocket.jpg"]
        done = image.run([*render, "--out=/tmp/clip.mp4", *small])
        assert done.returncode == 0, done.stderr
        clip = image.folder / "tmp/clip.mp4"
        assert clip.stat().st_uid == 1000
        assert b"ftyp" in clip.read_bytes()[:16]
        for path in ("/app/farm/new", "/venv/new", "/etc/new"):
            assert image.run(["touch", path]).returncode != 0
        assert image.run(["python", "-c", "import farm.ingress.serve_app"]).returncode == 0

    def test_the_doctor_finds_nothing_wrong(self, built: tuple[Build, DebianRoot]) -> None:
        with built[1].started(["sleep", "600"], WRITABLE) as run:
            done = run("python", "-m", "farm", "doctor")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "have the tested versions" in done.stdout

    @pytest.mark.ray
    def test_its_command_serves_and_its_check_is_healthy(
        self, built: tuple[Build, DebianRoot]
    ) -> None:
        """With a read-only root, as the compose file has it, and without a network."""
        build, image = built
        image.env["FARM_KEYS"] = json.dumps({"0" * 64: {"tenant": "alice"}})
        check = json.loads(build.last["HEALTHCHECK"].partition("CMD ")[2])
        with image.started(json.loads(build.last["CMD"]), WRITABLE) as run:
            wait_for(lambda: run(*check).returncode == 0, PATIENCE_S)
            shown = run("python", "-m", "farm", "status")
            assert "renderer-0" in shown.stdout, shown.stdout + shown.stderr
            assert run("touch", "/app/new", "/venv/new").returncode != 0
