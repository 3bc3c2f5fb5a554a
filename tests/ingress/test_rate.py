"""How often a key may ask."""

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
