"""The node of the soak test: `python -m rosless soak_engine:serve`.

Its engine does what the live parameter max_tokens asks for. With a checkpoint every second load is
that of the small model, the others are constant velocity. Paths that must not be published are
moved far away, so that whoever hears one knows it.
"""

from dataclasses import replace
import sys
import time

import numpy as np
from soak_faults import ACTS, FAR_M
from wire_engines import NVML

from alpamayo_ros import images
from alpamayo_ros.ros import node
from alpamayo_ros.runtime.constant_velocity import ConstantVelocityEngine

SLOW_S, LATE_S = 0.3, 3.0
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
        if act in ('slow', 'late'):
            time.sleep(SLOW_S if act == 'slow' else LATE_S)
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


def serve():
    """Run the node."""
    original, loads = node.start_engine, iter(range(10**6))

    def start_engine(choice, rig):
        real = choice.checkpoint and next(loads) % 2 == 1
        if real:
            return Acting(original(replace(choice, engine='alpamayo'), rig))
        return Acting(ConstantVelocityEngine(choice.options))

    node.start_engine = start_engine
    return node.main()


if __name__ == '__main__':
    sys.exit('python -m rosless soak_engine:serve')
