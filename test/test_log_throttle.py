"""Lines of the log: one per reason and period, and a frequent one silences no other."""

from alpamayo_ros.ros.diagnostics.log_throttle import PERIOD_S, LogThrottle


class Clock:
    """A throttle whose time is set by hand, and the lines that it lets through."""

    def __init__(self):
        self.now_s, self.lines = 100.0, []
        self.throttle = LogThrottle(
            lambda severity, text: self.lines.append((severity, text)), lambda: self.now_s
        )


def test_a_reason_is_logged_once_in_a_period_and_again_after_it():
    clock = Clock()
    for after_s in (0.0, 0.1, PERIOD_S - 0.1, PERIOD_S, 2 * PERIOD_S - 0.1):
        clock.now_s = 100.0 + after_s
        clock.throttle.warn('odometry_gap', f'{after_s}')
    assert clock.lines == [('warning', '0.0'), ('warning', f'{PERIOD_S}')]


def test_a_frequent_reason_silences_no_other_and_errors_are_errors():
    clock = Clock()
    clock.throttle.warn('odometry: bad_message', 'NaN')
    clock.now_s += 0.01
    clock.throttle.report_error('engine_error', 'inference failed')
    clock.throttle.warn('odometry: bad_message', 'NaN again')
    assert clock.lines == [('warning', 'NaN'), ('error', 'inference failed')]
