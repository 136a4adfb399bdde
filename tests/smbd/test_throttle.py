"""Delays grow with each death and are forgotten after a healthy life."""

from smbd.throttle import HEALTHY, LONGEST, Throttle


def test_the_first_restart_is_at_once() -> None:
    throttle = Throttle()
    throttle.start(100.0)
    assert throttle.due is None
    assert throttle.died(101.0) == 0.0
    assert throttle.due == 101.0


def test_delays_double_up_to_the_longest() -> None:
    throttle = Throttle()
    delays = []
    now = 0.0
    for _ in range(12):
        throttle.start(now)
        delays.append(throttle.died(now))
        now += delays[-1]
    assert delays[:5] == [0.0, 0.25, 0.5, 1.0, 2.0]
    assert delays[-1] == LONGEST


def test_a_healthy_life_forgets() -> None:
    throttle = Throttle()
    throttle.start(0.0)
    throttle.died(0.0)
    throttle.start(1.0)
    assert throttle.died(1.0 + HEALTHY) == 0.0
