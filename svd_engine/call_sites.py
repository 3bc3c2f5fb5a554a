"""Finds the engine's lines that called an operation, for instruments to report."""

import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

PACKAGE = str(Path(__file__).parent)
# Torch calls an instrument through these methods, which are no call sites of the operation.
MODE_HOOKS = ("__torch_function__", "__torch_dispatch__")


class CallSite(NamedTuple):
    """A line of the engine, in the function that is being run there."""

    code: CodeType
    line: int

    def __str__(self) -> str:
        return f"{Path(self.code.co_filename).name}:{self.line} {self.code.co_qualname}"


def call_sites(instrument: str, depth: int) -> tuple[CallSite, ...]:
    """The engine's innermost call sites, at most `depth` of them, the innermost first.

    instrument: the `__file__` of the module that asks, whose own functions are left out.
    """
    frame: FrameType | None = sys._getframe(1)
    found: list[CallSite] = []
    while frame is not None and len(found) < depth:
        code = frame.f_code
        hidden = code.co_filename == instrument or code.co_name in MODE_HOOKS
        if code.co_filename.startswith(PACKAGE) and not hidden:
            found.append(CallSite(code, frame.f_lineno))
        frame = frame.f_back
    return tuple(found)
