"""Edited pictures: what an edit removes, whom it changes, and how plans are judged."""

from dataclasses import replace

import numpy as np
import pytest

from alpamayo_ros.drives.counterfactual import REMOVED, Counterfactuals, make_record, measure
from alpamayo_ros.drives.edits import EDITS, branch_edited, edit_moment
from alpamayo_ros.drives.planners import ExpertPlanner
from alpamayo_ros.world.rendering.stage import Stage

SIZE = (64, 160)
LOOP = Counterfactuals('test', 60, 30.0, 0)
ZEBRA, LIGHT = 35, 4  # drives in which the expert stops for a pedestrian, for a red light


def scene_of(number, edit):
    return next(scene for scene in LOOP.scenes(number, SIZE) if scene.edit == edit)


class Looking:
    """The expert of the world that the pictures show."""

    def plan(self, scenes, seed):
        """Plan each scene in its own world."""
        return [ExpertPlanner(scene.edit).plan([scene], seed)[0] for scene in scenes]


@pytest.mark.parametrize(
    ('number', 'edit'), [(ZEBRA, 'no pedestrians'), (LIGHT, 'green lights'), (6, 'no vehicles')]
)
def test_who_looks_follows_the_edit_and_no_longer_names_what_is_gone(number, edit):
    records = [x for x in measure(Looking(), LOOP, [number], SIZE) if x['edit'] == edit]
    (record,) = records
    assert record['cause'] in REMOVED[edit] and abs(record['expert_change_m']) >= 3.0
    assert (record['follows'], record['names'], record['still_names']) == (1.0, 1.0, 0.0)
    assert record['change_m'] == pytest.approx(record['expert_change_m'], abs=0.3)


def test_who_copies_the_past_follows_nothing_and_still_names_it():
    scene = scene_of(ZEBRA, 'no pedestrians')
    plan = ExpertPlanner().plan([scene], 0)[0]
    record = make_record(scene, plan, plan)
    assert (record['follows'], record['names'], record['still_names']) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize(('share', 'follows'), [(0.4, 0.0), (0.6, 1.0), (-1.0, 0.0)])
def test_half_of_the_experts_change_is_asked(share, follows):
    scene = scene_of(ZEBRA, 'no pedestrians')
    before = ExpertPlanner().plan([scene], 0)[0]
    wanted_m = make_record(scene, before, before)['expert_change_m']

    def straight(way_m):
        path = np.zeros((1, 64, 4), np.float32)
        path[0, :, 0] = np.linspace(way_m / 64, way_m, 64)
        return replace(before, samples=path)

    record = make_record(scene, straight(40.0), straight(40.0 + share * wanted_m))
    assert record['change_m'] == pytest.approx(share * wanted_m, abs=2e-3)
    assert record['follows'] == follows


@pytest.mark.parametrize('edit', EDITS)
def test_an_edited_picture_lacks_what_is_removed_and_keeps_the_rest(edit):
    number = {'no pedestrians': ZEBRA, 'green lights': LIGHT, 'no vehicles': 6}[edit]
    scene = scene_of(number, edit)
    before, after = replace(scene, edit=None).list_moments()[-1], scene.list_moments()[-1]
    assert after != before and edit_moment(after, edit) == after
    changed = {name for name in ('ego', 'cars', 'walkers', 'lights')
               if getattr(before, name) != getattr(after, name)}  # fmt: skip
    assert changed == {{'no pedestrians': 'walkers', 'no vehicles': 'cars'}.get(edit, 'lights')}
    stage = Stage(scene.drive.scenario, *SIZE)
    pictures = [stage.pictures([moment]).astype(int) for moment in (before, after)]
    assert np.abs(pictures[0] - pictures[1]).max() > 20


def test_the_edited_world_goes_on_without_what_is_removed():
    scene = scene_of(ZEBRA, 'no pedestrians')
    branch = branch_edited(scene.simulation, scene.t0_s, 'no pedestrians')
    branch.run(scene.t0_s + 6.0)
    assert branch.moment(branch.time_s).walkers == ()
    assert scene.simulation.moment(scene.t0_s).walkers  # the branch changed no other
    way, before = (x.trace.ego(scene.t0_s + 6.0).s_m for x in (branch, scene.simulation))
    assert way > before + 3.0


def test_moments_are_of_the_seed():
    found = [[scene.t0_s for scene in LOOP.scenes(ZEBRA, SIZE)] for _ in range(2)]
    other = replace(LOOP, seed=1).scenes(ZEBRA, SIZE)
    assert found[0] == found[1] != [scene.t0_s for scene in other]
