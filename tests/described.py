"""`python -m tests.described`: print what is said of mistakes that no catalogue has, as a table."""

import tempfile
import warnings
from pathlib import Path

from svd_engine import Engine
from tests.conftest import draw_picture
from tests.support.other_mistakes import PLANTED, Outcome, outcome
from tests.support.reference import SPECS, make_checkpoint
from tests.support.traced import params_of, trace

CHECKPOINTS = ("shallow", "three-levels")


def outcomes(name: str, folder: Path) -> list[Outcome]:
    """Plant each mistake in a right trace of one checkpoint, and diagnose it."""
    engine = Engine.from_pretrained(make_checkpoint(SPECS[name], folder / name))
    params, picture = params_of(name, engine), draw_picture(640, 400)
    right = trace(engine, picture, params)
    return [outcome(planted, right, engine, picture, params) for planted in PLANTED]


def row(made: Outcome) -> str:
    """A row of the table."""
    planted, named = made.planted, ", ".join(made.found.deviations) or "none"
    place = f"`{made.located}`" + ("" if made.located == planted.key else f", not {planted.key}")
    return f"| {planted.name} | {place} | {made.described or 'not described'} | {named} |"


def counts(made: list[Outcome]) -> str:
    """How many were located, described and misnamed."""
    located = sum(each.located == each.planted.key for each in made)
    described = sum(bool(each.described) for each in made)
    misnamed = sum(bool(each.found.deviations) for each in made)
    return f"{len(made)} planted: {located} located, {described} described, {misnamed} misnamed"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name in CHECKPOINTS:
        with tempfile.TemporaryDirectory() as scratch:
            made = outcomes(name, Path(scratch))
        print(f"{name}, {counts(made)}\n")
        print(
            "| mistake | located at | described as | named |", "| --- | --- | --- | --- |", sep="\n"
        )
        print("\n".join(map(row, made)), end="\n\n", flush=True)
