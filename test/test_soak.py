"""The soak test, twenty seconds of it: `make soak` is the long one."""

import pytest
from soak import POLICIES, soak


@pytest.mark.parametrize('seed', range(len(POLICIES)))
def test_twenty_seconds_of_faults_break_no_rule_with_any_policies(seed):
    figures = soak(seconds=20, seed=seed)
    assert figures['broken'] == []
    assert figures['exit_status'] == 0
    assert figures['kinds_of_faults'] >= 10
    assert (figures['pending'], figures['inferred'] > 0) == (0, True)
