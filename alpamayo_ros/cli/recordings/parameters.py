"""What a replay of any recordings takes from the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ...bags.reader import Bag
from ...cluster.workers import Cluster
from ...context.navigation import NavigationInput
from ...replay.recorded_navigation import RecordedNavigation
from ...ros.parameters import NodeParameters
from ..engine_arguments import make_engine, read_node_parameters

PARAMETERS = (  # arguments that a result depends on
    *('engine', 'device', 'samples', 'seed', 'greedy', 'temperature', 'top_p'),
    *('max_tokens', 'noise_temperature', 'guidance_weight', 'profile', 'activations', 'kv_bits'),
    *('navigation_topic', 'navigation_file', 'reasoning', 'flow_steps', 'cameras', 'pixels'),
    *('draft_tokens', 'period', 't0', 'sample_choice'),
)
NAVIGATION = ('navigation_max_age_s', 'on_missing_navigation')
THRESHOLDS = ('max_ade_m', 'max_fde_m', 'max_p90_ms', 'min_valid')


def read_parameters(arguments: argparse.Namespace) -> dict[str, Any]:
    """Values of PARAMETERS and NAVIGATION, for run.json."""
    values = {name: getattr(arguments, name) for name in (*PARAMETERS, *NAVIGATION)}
    return {name: str(x) if isinstance(x, Path) else x for name, x in values.items()}


def read_navigation(arguments: argparse.Namespace, bag: Bag) -> RecordedNavigation | None:
    """Read the route texts that the arguments name; None where they name none."""
    values = read_node_parameters(arguments, NAVIGATION)
    own = NodeParameters(rig='r1', engine='constant_velocity', **values)  # checks their ranges
    if not (arguments.navigation_topic or arguments.navigation_file or values):
        return None
    limits = own.navigation_max_age_s, own.on_missing_navigation
    navigation = RecordedNavigation(NavigationInput(*limits))
    if arguments.navigation_topic:
        navigation.read_topic(bag, arguments.navigation_topic)
    if arguments.navigation_file:
        navigation.read_file(arguments.navigation_file, bag.start_ns)
    return navigation


def read_thresholds(arguments: argparse.Namespace) -> dict[str, float | None]:
    """Values of THRESHOLDS; None for those that are not given."""
    return {name: getattr(arguments, name) for name in THRESHOLDS}


def make_cluster(arguments: argparse.Namespace) -> Cluster:
    """Where the work is done; raises BadInput for a cluster that there cannot be."""
    return Cluster(arguments.cluster or '', None, arguments.device)


def make_worker_engine(arguments: argparse.Namespace) -> Any:
    """Load the engine of a worker.

    On a CPU it has one thread, in this process too: sums in another order have other last bits.
    """
    if arguments.device == 'cpu' and arguments.engine == 'alpamayo':
        import torch  # takes seconds to import

        torch.set_num_threads(1)
    return make_engine(arguments)
