"""The rate limit of keys."""

from hypothesis import given
from hypothesis import strategies as st

from farm.ingress.access.rate_limit import BURST_S, Rate


@given(per_minute=st.floats(1, 6000), gaps=st.lists(st.floats(0, 30), min_size=1, max_size=60))
def test_no_more_than_the_rate_and_a_burst(per_minute: float, gaps: list[float]) -> None:
    now, passed = 0.0, 0
    rate = Rate(per_minute, now)
    for gap in gaps:
        now += gap
        wait = rate.wait_s(now)
        passed += not wait
        assert passed <= max(1, per_minute / 60 * BURST_S) + now * per_minute / 60 + 1e-6
        if wait:
            now += wait * (1 + 1e-9) + 1e-9
            assert not rate.wait_s(now)
            passed += 1


def test_a_calm_key_never_waits() -> None:
    rate = Rate(60, 0.0)
    assert not any(rate.wait_s(float(second)) for second in range(100))


def test_a_key_saves_up_no_more_than_a_burst() -> None:
    """However long it was silent."""
    rate, now = Rate(60, 0.0), 3600.0
    passed = sum(not rate.wait_s(now) for _ in range(100))
    assert passed == BURST_S  # one a second
    assert rate.wait_s(now) == 1.0
    assert rate.wait_s(now + 0.25) == 0.75
    assert rate.wait_s(now + 1.0) == 0.0
    assert rate.wait_s(now + 1.0) == 1.0


def test_a_slow_key_may_ask_once_at_once() -> None:
    rate = Rate(1, 0.0)
    assert [rate.wait_s(0.0), rate.wait_s(0.0), rate.wait_s(30.0)] == [0.0, 60.0, 30.0]
