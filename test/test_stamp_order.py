"""The order of messages by stamps: each kind of disorder, and what must stay as it is."""

import numpy as np
import pytest
import small_bag
from small_bag import ODOMETRY, START_NS
from small_mcap import write_mcap

from alpamayo_ros.bags.reader import Bag
from alpamayo_ros.bags.stamp_order import (
    find_outliers,
    measure_clock_offset,
    merge_by_stamp,
    number_passes,
    place_outliers,
)

S = 10**9
STAMPS = START_NS + np.arange(200) * S // 10
LOGS = STAMPS + 20_000_000


def test_a_regular_topic_is_one_pass_without_outliers():
    assert number_passes(STAMPS).max() == 0
    assert not find_outliers(LOGS, STAMPS).any()


@pytest.mark.parametrize('wrong', [[40], [0, 1, 2, 3, 4], [199], [10, 60, 61]])
@pytest.mark.parametrize('off_s', [3600, -1_600_000_000])
def test_stamps_far_from_their_neighbours_are_outliers(wrong, off_s):
    stamps = STAMPS.copy()
    stamps[wrong] += off_s * S
    found = find_outliers(LOGS, stamps)
    assert list(np.flatnonzero(found)) == wrong
    assert (np.diff(place_outliers(stamps, found)) >= 0).all()


def test_a_step_of_the_clock_that_stays_is_no_outlier():
    stamps = STAMPS + np.where(np.arange(200) < 100, 0, 3600 * S)
    assert not find_outliers(LOGS, stamps).any()


def test_a_pause_of_the_recording_is_no_outlier():
    later = np.where(np.arange(200) < 195, 0, 3600 * S)
    assert not find_outliers(LOGS + later, STAMPS + later).any()


@pytest.mark.parametrize('hz', [0.05, 1])
def test_log_times_that_stand_still_make_no_outliers(hz):
    stamps = START_NS + (np.arange(100) * S / hz).astype(np.int64)
    assert not find_outliers(np.zeros(100, np.int64), stamps).any()


def test_a_drive_that_comes_again_is_a_second_pass():
    passes = number_passes(np.concatenate([STAMPS, STAMPS]))
    assert list(np.unique(passes, return_counts=True)[1]) == [200, 200]


def test_blocks_in_the_wrong_order_are_one_pass():
    order = np.concatenate([np.arange(100, 150), np.arange(0, 100), np.arange(150, 200)])
    assert number_passes(STAMPS[order]).max() == 0


def test_single_late_messages_make_no_pass():
    order = [*range(50), *range(51, 80), 50, *range(80, 200)]
    assert number_passes(STAMPS[order]).max() == 0


def test_two_senders_with_two_clocks_are_counted_in_time():
    both = np.stack([STAMPS, STAMPS - 5 * S], axis=1).ravel()
    assert len(number_passes(np.tile(both, 50))) == 20_000


def test_topics_are_merged_by_stamp_within_a_pass():
    stamps = {'a': np.tile(STAMPS, 2), 'b': np.tile(STAMPS + 1, 2)}
    logs = {'a': np.arange(400), 'b': 1000 + np.arange(400)}  # one topic after the other
    merged = list(merge_by_stamp(logs, stamps))
    assert merged[:4] == [('a', 0), ('b', 0), ('a', 1), ('b', 1)]
    assert merged[400:402] == [('a', 200), ('b', 200)]


def test_a_topic_whose_clock_alone_was_set_back_follows_its_log():
    stamps = {'a': np.tile(STAMPS, 2), 'b': START_NS + np.arange(400) * S // 10}
    logs = {'a': np.arange(400), 'b': np.arange(400)}
    merged = list(merge_by_stamp(logs, stamps))
    assert {number < 200 for _, number in merged[:400]} == {True}


def test_two_clocks_are_found_and_delays_are_none():
    assert measure_clock_offset(LOGS, STAMPS) is None
    assert measure_clock_offset(LOGS + 900 * S, STAMPS) == 900 * S + 20_000_000


def test_a_conversion_with_its_own_log_times_comes_by_stamp(tmp_path):
    drive = small_bag.drive(seconds=2)
    images = [m for m in drive if m[1] != ODOMETRY]
    poses = [m for m in drive if m[1] == ODOMETRY]
    wrong = [(5 * S + k, *m[1:]) for k, m in enumerate(images + poses)]
    with Bag(write_mcap(tmp_path / 'a.mcap', wrong)) as bag:
        stamps = [message.order_ns for message in bag.messages_by_stamp(bag.topics)]
        times = [time_ns for _, time_ns, _ in bag.messages_to_play(bag.topics)]
    assert stamps == sorted(stamps) == times
    assert len(stamps) == len(drive)
    assert stamps[0] == START_NS


def test_a_player_keeps_the_delays_of_a_drive_with_one_clock(tmp_path):
    drive = small_bag.drive(seconds=1)
    with Bag(small_bag.write(tmp_path / 'bag', drive)) as bag:
        assert [time_ns for _, time_ns, _ in bag.messages_to_play(bag.topics)] == [
            log_ns for log_ns, _, _ in drive
        ]
