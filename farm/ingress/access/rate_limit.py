"""Limits how often a key may send requests. Pure: times are passed in."""

BURST_S = 10.0  # the requests allowed in this time may all come at once


class Rate:
    """A token bucket."""

    def __init__(self, per_minute: float, now: float) -> None:
        self._per_s = per_minute / 60
        self._most = max(1.0, self._per_s * BURST_S)
        self._left, self._at = self._most, now

    def wait_s(self, now: float) -> float:
        """Admit a request and return 0, or return how long it must wait."""
        self._left = min(self._most, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / self._per_s
        self._left -= 1
        return 0.0
