"""The node of the soak test: `python -m rosless soak_engine:serve`.

Its engine is in a process of its own, which imports this module too. It does what the live
parameter max_tokens asks for. With a checkpoint every fourth load is that of the small model, the
others are constant velocity. Paths that must not be published are moved far away, so that whoever
hears one knows it.
"""

from dataclasses import replace
import os
import signal
import sys
import time

import numpy as np
from soak_faults import ACTS, FAR_M
from toy_engines import NVML

from alpamayo_ros import images
from alpamayo_ros.runtime import start
from alpamayo_ros.runtime.constant_velocity import ConstantVelocityEngine

SLOW_S, LATE_S, HANG_S = 0.3, 1.6, 60.0
NAMES = {value: name for name, value in ACTS.items()}


class Acting:
    """An engine whose results are changed, or that fails, as its options say."""

    def __init__(self, engine):
        self.name, self._engine = engine.name, engine
        self.options = engine.options

    def provenance(self):
        """That of the engine inside."""
        return self._engine.provenance()

    def infer(self, context, seed):
        """Decode every image, as a model does, predict and act."""
        act = NAMES[self.options.max_tokens]
        for frames in context.frames.values():
            for frame in frames:
                images.decode(frame)
        self._engine.options = replace(self.options, max_tokens=ACTS['good'])
        found = self._engine.infer(context, seed)
        if act == 'raise':
            raise KeyError('weights')
        if act == 'out_of_memory':
            raise RuntimeError(NVML)
        if act == 'die':
            os.kill(os.getpid(), signal.SIGKILL)
        if act in ('slow', 'late', 'hang'):
            time.sleep({'slow': SLOW_S, 'late': LATE_S, 'hang': HANG_S}[act])
        if act == 'not_finite':
            return replace(found, samples=found.samples * np.nan, checks=('non_finite',))
        if act == 'backward':
            return replace(found, samples=found.samples - np.float32(FAR_M), checks=('backward',))
        if act == 'endless':
            count = len(found.samples)
            return replace(
                found,
                samples=found.samples + np.float32(FAR_M),
                checks=('marker_missing', 'budget'),
                end=('budget',) * count,
                texts=('',) * count,
                partial_texts=('Keep the',) * count,
            )
        return found


def start_simple(choice, rig):
    """An engine without a model."""
    return Acting(ConstantVelocityEngine(choice.options))


def start_model(choice, rig):
    """An engine with the small checkpoint."""
    return Acting(start.start_engine(replace(choice, engine='alpamayo'), rig))


def choose(load):
    """The function for a load of this number."""
    return start_model if load % 4 == 2 else start_simple


class ByTurns:
    """One of the functions above: which one is chosen when it is pickled for a load."""

    loads = 0
    __call__ = staticmethod(start_simple)  # in a thread, where nothing is pickled

    def __reduce__(self):
        self.loads += 1
        return choose, (self.loads,)


def serve():
    """Run the node."""
    from alpamayo_ros.ros import node  # the engine's process has no ROS

    has_model = any(word.startswith('checkpoint:=') for word in sys.argv)
    node.start_engine = ByTurns() if has_model else start_simple
    return node.main()


if __name__ == '__main__':
    sys.exit('python -m rosless soak_engine:serve')
