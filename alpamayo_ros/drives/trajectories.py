"""Trajectories in records: arrays as base64 text, and a drive simulated again from its controls.

With them a new metric is computed from the parts of an evaluation, without any planner.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..world.moments import SIMULATION_STEP_S
from ..world.scenario import make_scenario
from ..world.simulation import Simulation

_CONTROLS, _PATHS = np.dtype('<f8'), np.dtype('<f4')


def encode_controls(simulation: Simulation, first_s: float) -> str:
    """Acceleration and curvature of every step behind first_s, float64 (N, 2) as base64."""
    trace = simulation.trace
    first = round((first_s - trace.start_s) / SIMULATION_STEP_S)
    states = [step.ego for step in trace.steps[first + 1 :]]
    controls = [(state.acceleration_mps2, state.curvature) for state in states]
    return _encode(np.array(controls, _CONTROLS))


def simulate_again(
    loop: Mapping[str, Any], record: Mapping[str, Any], margin_s: float
) -> Simulation:
    """Simulate a drive of the closed loop again, to the bit, from its record.

    loop: `made_from['loop']` of the part. margin_s: how much longer its scenario was made.
    """
    scenario = make_scenario(loop['split'], record['drive'], loop['seconds'] + margin_s)
    simulation = scenario.simulate()
    simulation.run(loop['latency_s'])
    controls = np.frombuffer(base64.b64decode(record['controls']), _CONTROLS).reshape(-1, 2)
    for acceleration, curvature in controls.tolist():
        ego = simulation.trace.steps[-1].ego
        state = replace(ego, acceleration_mps2=acceleration, curvature=curvature)
        simulation.step(state.after(SIMULATION_STEP_S))
    return simulation


def encode_paths(samples: NDArray[np.float32]) -> str:
    """Samples (K, 64, 4) of a prediction, float32 as base64."""
    return _encode(np.asarray(samples, _PATHS))


def decode_paths(text: str) -> NDArray[np.float32]:
    """Samples (K, 64, 4) from encode_paths."""
    return np.frombuffer(base64.b64decode(text), _PATHS).reshape(-1, 64, 4)


def _encode(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
