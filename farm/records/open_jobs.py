"""The table of open jobs, which counts the jobs and the work of each tenant. Pure."""

from collections import UserDict
from dataclasses import dataclass
from math import prod

from farm.model.job import JobRecord, State
from farm.model.request import RenderRequest


def factors_of(request: RenderRequest) -> tuple[tuple[str, int], ...]:
    """The named numbers whose product is a request's work."""
    params = request.params
    return (
        ("num_inference_steps", params.steps),
        ("width", params.width or 0),
        ("height", params.height or 0),
        ("num_frames", params.num_frames or 0),
        ("num_videos", request.num_videos),
    )


def work_of(request: RenderRequest) -> int:
    """A request's work, in pixels that the UNet processes: steps x pixels x frames x videos."""
    return prod(number for _, number in factors_of(request))


@dataclass
class Tally:
    """The number of a tenant's open jobs, and the work in them."""

    jobs: int = 0
    paused: int = 0
    work: int = 0

    def count(self, job: JobRecord, sign: int = 1) -> None:
        """Add a job, or subtract it with sign=-1."""
        self.jobs += sign
        self.paused += sign * (job.state is State.PAUSED)
        self.work += sign * work_of(job.request)


class OpenJobs(UserDict[str, JobRecord]):
    """A dictionary of open jobs by id, with a tally for each tenant and an index by picture."""

    def __init__(self) -> None:
        super().__init__()
        self._of_picture: dict[str, set[str]] = {}
        self.tallies: dict[str, Tally] = {}  # only of tenants that have open jobs

    def __setitem__(self, name: str, job: JobRecord) -> None:
        self._forget(name)
        super().__setitem__(name, job)
        self.tallies.setdefault(job.tenant, Tally()).count(job)
        self._of_picture.setdefault(job.request.picture, set()).add(name)

    def __delitem__(self, name: str) -> None:
        self._forget(name)
        super().__delitem__(name)

    def of_picture(self, picture: str) -> list[JobRecord]:
        """The jobs of a picture."""
        return [self[name] for name in self._of_picture.get(picture, ())]

    def _forget(self, name: str) -> None:
        former = self.get(name)
        if former is not None:
            tally = self.tallies[former.tenant]
            tally.count(former, -1)
            if not tally.jobs:
                del self.tallies[former.tenant]
            names = self._of_picture[former.request.picture]
            names.remove(name)
            if not names:
                del self._of_picture[former.request.picture]
