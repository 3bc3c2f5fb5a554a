"""What a process has loaded once it has imported one module, and nothing before.

Interpreters are slow to start, so one process forks for each module. It has itself imported only
what every module needs.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
FORKS = """
import importlib, json, os, sys, traceback
import pydantic, pydantic_settings

for name in json.loads(sys.argv[1]):
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    try:
        importlib.import_module(name)
        print(json.dumps([name, sorted(sys.modules)]), flush=True)
    except BaseException:
        traceback.print_exc()
    os._exit(0)
"""


def loaded_after(modules: Sequence[str]) -> dict[str, set[str]]:
    """The modules that importing each of these loads; one that fails to import is left out."""
    command = [sys.executable, "-c", FORKS, json.dumps(modules)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    print(done.stderr, file=sys.stderr)  # pytest shows it where a test fails
    return {name: set(loaded) for name, loaded in map(json.loads, done.stdout.splitlines())}
