"""Stages are timed by name, and added up where one comes again."""

import time

import torch

from alpamayo_ros.runtime.stopwatch import Stopwatch


def test_a_stage_has_at_least_the_time_of_its_body_and_adds_up():
    watch = Stopwatch(torch.device('cpu'))
    for name, seconds in (('a', 0.02), ('b', 0.01), ('a', 0.03)):
        with watch.stage(name):
            time.sleep(seconds)
    found = watch.milliseconds
    assert list(found) == ['a', 'b']
    assert found['a'] >= 50 and found['b'] >= 10
