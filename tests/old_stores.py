"""`python -m tests.old_stores`: make stores with earlier versions of the farm, in tests/stores/.

Each version is taken from the repository's history, and run by this interpreter with the packages
of today. It renders two clips, cancels a job, and is killed in the middle of another. The archives
are kept in the repository, so that tests need no history. When records change, add a version to
VERSIONS.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from tests.support.farm_jobs import picture_bytes
from tests.support.programs import ROOT, kill_family

STORES = Path(__file__).parent / "stores"
VERSIONS = {
    "a5bda05": "the front door",
    "b7eb62a": "decodes that are shared",
    "5ea111e": "the trained model",
    "1bad352": "records with a schema, results named by numerics",
}

LEAVES_A_STORE = """
import sys, time
from pathlib import Path
import farm
picture, store = sys.argv[1:]
small = {"model": "tiny", "width": 64, "height": 48, "num_frames": 3}
done = farm.submit(picture, **small, num_inference_steps=2, num_videos=2, seed=7)
done.wait(progress=False)
cancelled = farm.submit(picture, **small, num_inference_steps=500, seed=8)
cancelled.cancel()
farm.submit(picture, **small, num_inference_steps=100, seed=9)
while not list(Path(store).glob("checkpoints/*/*")):
    time.sleep(0.05)
print("left", flush=True)
time.sleep(60)
"""


def main() -> None:
    """Make all archives again."""
    STORES.mkdir(exist_ok=True)
    for number, version in enumerate(VERSIONS):
        with tempfile.TemporaryDirectory() as folder:
            store = make_store(version, Path(folder))
            archive = STORES / f"{number}-{version}.tar.gz"
            with tarfile.open(archive, "w:gz") as file:
                file.add(store, "store")
        print(archive, archive.stat().st_size)


def make_store(version: str, folder: Path) -> Path:
    """Make a store in a folder with one version of the farm."""
    code, store = folder / "code", folder / "store"
    subprocess.run(["git", "clone", "-q", "-n", ROOT, code], check=True)
    subprocess.run(["git", "-C", code, "checkout", "-q", version], check=True)
    picture = folder / "a.png"
    picture.write_bytes(picture_bytes())
    unwanted = {"FARM_URL", "FARM_API_KEY"}
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    environment |= {"FARM_STORE": str(store), "PYTHONPATH": str(code), "RAY_ADDRESS": "local"}
    environment |= {"RAY_AUTH_MODE": "disabled", "FARM_SEGMENT_STEPS": "10"}
    program = subprocess.Popen(
        [sys.executable, "-c", LEAVES_A_STORE, str(picture), str(store)],
        cwd=code,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    with program.stdout as output:
        left = "left\n" in iter(output.readline, "")
        time.sleep(0.2)
        kill_family(program)
    assert left, f"{version} left no store"
    return store


if __name__ == "__main__":
    main()
