"""The result of judging a tensor of a trace."""

from dataclasses import dataclass
from enum import StrEnum

EXPLAINS = 0.1  # an explanation of a departure leaves less than this share of the residual


class Verdict(StrEnum):
    """The verdict on a tensor."""

    RIGHT = "right"
    WRONG = "wrong"  # explained by the mistakes that are named
    UNEXPLAINED = "unexplained"  # it departs, and no known mistake explains it
    UNKNOWN = "unknown"  # the trace lacks what is needed to judge it


@dataclass(frozen=True)
class Finding:
    """The verdict on a tensor of the trace. Residuals are relative to the right tensor's RMS."""

    key: str
    verdict: Verdict
    deviations: tuple[str, ...] = ()
    right: float | None = None  # the residual to the right tensor
    under: float | None = None  # the residual under the named mistakes
    note: str = ""  # its layout, or what is missing
    relation: str = ""  # of an unexplained tensor to the right one, in words
    relation_residual: float | None = None  # what the relation leaves, over the tensor's RMS

    @property
    def departs(self) -> bool:
        """Whether the tensor is known to be wrong."""
        return self.verdict in (Verdict.WRONG, Verdict.UNEXPLAINED)
