"""One table says which files are made of a clip; everything that handles them follows it."""

from dataclasses import fields
from typing import get_args

import pytest

from farm.artifacts import ARTIFACTS, ArtifactName
from farm.coordinator.clips import Clip
from farm.model.job import ClipResult
from farm.model.request import Model
from farm.model.task_order import Made
from farm.scheduling.state import Urgency
from farm.store.keys import artifact_keys
from tests.model.test_plan import request


def result() -> ClipResult:
    asked = request()
    made = Made("0" * 64, 9, *artifact_keys(asked.digest, "3-1"))
    urgency = Urgency("default", 0.0)
    clip = Clip(asked.digest, Model(), urgency, request=asked, source=Model(), label="job")
    return clip.result(made, 3, now=0.0)


def test_every_artifact_has_a_place_in_what_is_made_and_in_the_record() -> None:
    assert tuple(ARTIFACTS) == get_args(ArtifactName)
    places = [artifact.field for artifact in ARTIFACTS.values()]
    assert [each.name for each in fields(Made)] == ["sha256", "bytes", *places]
    assert set(places) <= ClipResult.model_fields.keys()
    assert len({artifact.file for artifact in ARTIFACTS.values()}) == len(ARTIFACTS)


def test_a_result_names_all_that_its_attempt_stored() -> None:
    made = result()
    assert made.artifact_keys() == set(artifact_keys(made.request.digest, "3-1"))


@pytest.mark.parametrize("name", ARTIFACTS)
def test_a_key_is_found_by_the_name_of_its_artifact(name: ArtifactName) -> None:
    assert result().key(name).endswith(f"/3-1/{ARTIFACTS[name].file}")
