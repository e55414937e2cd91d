"""The soak test, twenty seconds of it: `make soak` is the long one."""

from soak import soak


def test_twenty_seconds_of_faults_break_no_rule():
    figures = soak(seconds=20, seed=1)
    assert figures['broken'] == []
    assert figures['exit_status'] == 0
    assert figures['kinds_of_faults'] >= 20
    assert figures['rate'] > 3
    assert figures['paths'] >= 100
    assert figures['pending'] == 0
