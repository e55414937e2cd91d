"""Estimates for boards: the larger of cycles and bytes, on numbers by hand."""

import pytest

from alpamayo_ros.benchmark.boards import (
    BOARDS,
    Board,
    Slice,
    StageWork,
    estimate_board,
    estimate_boards,
    scale_images,
    scale_stage,
)

HALF = Slice(multiprocessors=8, clock_mhz=2000, cpu_mhz=3000)
BOARD = Board('a board', 4, 1000, 100e9, 5, 1500, 'made up')


def test_a_stage_of_few_bytes_takes_its_cycles():
    # half the clock and half the multiprocessors: four times as long
    assert scale_stage(StageWork(10.0, 1e6), HALF, BOARD) == pytest.approx(40.0)


def test_a_stage_of_many_bytes_takes_as_long_as_they_do():
    # 8 GB at 80 GB/s, which is 80 % of 100 GB/s
    assert scale_stage(StageWork(10.0, 8e9), HALF, BOARD) == pytest.approx(100.0)


def test_tensor_bound_stages_take_twice_the_cycles_of_hopper():
    assert scale_stage(StageWork(10.0, 0, is_tensor_bound=True), HALF, BOARD) == pytest.approx(80)


def test_images_take_the_cycles_of_a_core_on_all_cores():
    # half the clock, five cores
    assert scale_images(100.0, HALF, BOARD) == pytest.approx(40.0)


def test_an_inference_is_the_sum_of_its_stages():
    stages = {'vision': StageWork(10.0, 0, True), 'token': StageWork(1.0, 0)}
    table = estimate_board(stages, 100.0, {'token': 32}, HALF, BOARD)
    assert table == {'images': 40.0, 'vision': 80.0, 'token': 4.0, 'in_all': 40 + 80 + 32 * 4}


def test_with_drafts_passes_take_the_place_of_tokens():
    figures = {'vision': 1.0, 'prefill': 1.0, 'token': 10.0, 'flow_step': 1.0}
    figures |= {'tokens': 30, 'draft_pass': 12.0, 'tokens_per_pass': 2.5}
    work = {stage: {'bytes': 0.0} for stage in ('vision', 'prefill', 'token', 'flow_step')}
    table = estimate_boards(figures, work, 0.0, Slice(8, 918, 3000))['Orin Nano 8 GB, 25 W']
    assert 'token' not in table
    assert table['draft_pass'] == pytest.approx(12.0)
    assert table['in_all'] == pytest.approx(2 + 2 + 12 * 12.0 + 10)
    work['token']['bytes'] = 8.16e9  # 100 ms of the board's memory
    table = estimate_boards(figures, work, 0.0, Slice(8, 918, 3000))['Orin Nano 8 GB, 25 W']
    assert table['draft_pass'] == pytest.approx(100.0)


def test_every_board_is_estimated_from_the_figures_of_a_slice():
    figures = {'vision': 370.0, 'prefill': 930.0, 'token': 13.7, 'flow_step': 20.0}
    work = {stage: {'bytes': 0.0} for stage in figures} | {'token': {'bytes': 2.74e9}}
    tables = estimate_boards(figures, work, 20.0, Slice(8, 1980, 3000))
    assert set(tables) == {board.name for board in BOARDS}
    nano = tables['Orin Nano 8 GB, 25 W']
    assert nano['vision'] == pytest.approx(2 * 370 * 1980 / 918, abs=0.1)
    assert nano['token'] == pytest.approx(2.74e9 / (0.8 * 102e9) * 1e3, abs=0.1)  # 33.6 by bytes
    assert nano['images'] == pytest.approx(16 * 20 * 3000 / 1344 / 6, abs=0.1)
    parts = nano['images'] + nano['vision'] + nano['prefill']
    assert nano['in_all'] == pytest.approx(
        parts + 32 * nano['token'] + 10 * nano['flow_step'], abs=3
    )
