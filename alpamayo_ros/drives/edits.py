"""Edited worlds: pedestrians or vehicles removed, or every light green, from a time on.

Counterfactual rows show edited pictures; rule-breaking baselines drive as the expert would there.
"""

from __future__ import annotations

from dataclasses import replace

from ..world.driver import make_plan
from ..world.moments import Moment
from ..world.route import Route
from ..world.simulation import Simulation

EDITS = ('no pedestrians', 'no vehicles', 'green lights')
_ALWAYS_S = 1e6


def edit_moment(moment: Moment, edit: str) -> Moment:
    """Return what the cameras see of a moment in the edited world."""
    if edit == 'no pedestrians':
        return replace(moment, walkers=())
    if edit == 'no vehicles':
        return replace(moment, cars=())
    return replace(moment, lights=tuple(('green', _ALWAYS_S) for _ in moment.lights))


def branch_edited(simulation: Simulation, t_s: float, edit: str) -> Simulation:
    """Copy a simulation up to t_s; from there on the copy goes on in the edited world.

    Oncoming vehicles stay: the expert does not react to them.
    """
    branch = simulation.branch(t_s)
    branch.route = branch.trace.route = _edit_route(simulation.route, edit)
    if edit == 'no vehicles':
        branch.plan = make_plan(branch.route)
        branch.trace.steps[-1] = replace(branch.trace.steps[-1], lead=None)
    return branch


def _edit_route(route: Route, edit: str) -> Route:
    if edit == 'no pedestrians':
        return replace(route, crossings=tuple(replace(x, side=0) for x in route.crossings))
    if edit == 'no vehicles':
        return replace(route, parked_m=())
    lights = (replace(x, green_s=_ALWAYS_S, offset_s=1e3) for x in route.lights)
    return replace(route, lights=tuple(lights))
