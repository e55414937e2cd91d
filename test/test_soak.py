"""The soak test, twenty seconds of it: `make soak` is the long one."""

from soak import soak


def test_twenty_seconds_of_faults_break_no_rule():
    figures = soak(seconds=20, seed=1)
    assert figures['broken'] == []
    assert figures['exit_status'] == 0
    assert figures['kinds_of_faults'] >= 10
    assert (figures['pending'], figures['inferred'] > 0) == (0, True)
