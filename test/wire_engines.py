"""The node with an engine that fails in a chosen way: `python -m rosless wire_engines:NAME`."""

from dataclasses import replace
import sys
import time

import numpy as np
import toy_engines
from toy_engines import NVML

from alpamayo_ros import images
from alpamayo_ros.errors import BadInput
from alpamayo_ros.ros import node
from alpamayo_ros.ros.pipeline import Pipeline
from alpamayo_ros.runtime import start
from alpamayo_ros.runtime.constant_velocity import ConstantVelocityEngine


class Engine(ConstantVelocityEngine):
    """Decodes every image, as a model does; `act` changes the result or raises."""

    act = staticmethod(lambda found: found)

    def infer(self, context, seed):
        """Predict, then act."""
        for frames in context.frames.values():
            for frame in frames:
                images.decode(frame)
        return self.act(super().infer(context, seed))


def serve(act):
    """Run the node with that engine in place of constant_velocity."""
    made = type('Engine', (Engine,), {'act': staticmethod(act)})
    start.ConstantVelocityEngine = made
    return node.main()


def raises(error):
    """Return a function that raises an error in place of every second result."""
    count = iter(range(10**6))

    def act(found):
        if next(count) % 2 == 0:
            raise error
        return found

    return act


def decoding():
    """Decode only."""
    return serve(lambda found: found)


def failing():
    """Raise at every second context."""
    return serve(raises(KeyError('weights')))


def out_of_memory():
    """Run out of memory as a Tegra does, at every context."""

    def act(found):
        raise RuntimeError(NVML)

    return serve(act)


def not_finite():
    """Return NaN."""
    return serve(lambda x: replace(x, samples=x.samples * np.nan, checks=('non_finite',)))


def backward():
    """Fail a validity check at every second context."""
    count = iter(range(10**6))
    return serve(lambda x: replace(x, checks=('backward',)) if next(count) % 2 else x)


def endless():
    """Never end the reasoning."""
    return serve(
        lambda x: replace(
            x, checks=('marker_missing', 'budget'), end=('budget',), partial_texts=('Keep the',)
        )
    )


def sleeping():
    """Take a minute."""

    def act(found):
        time.sleep(60)
        return found

    return serve(act)


def talking():
    """Answer questions, after half a second."""

    class Talks(ConstantVelocityEngine):
        def answer(self, context, question, seed):
            time.sleep(0.5)
            return f'{question} A car.', True

    start.ConstantVelocityEngine = Talks
    return node.main()


def broken_callback():
    """Raise in a callback while an inference runs."""
    original = Pipeline.tick

    def tick(self):
        original(self)
        if self.worker.busy_s:
            raise KeyError('callback')

    Pipeline.tick = tick
    return sleeping()


def unloadable():
    """Fail to load the first time."""
    attempts = iter(range(10**6))

    def start_engine(choice, rig):
        if next(attempts) == 0:
            raise BadInput('the checkpoint is gone')
        return ConstantVelocityEngine(choice.options)

    node.start_engine = start_engine
    return node.main()


def slow_process():
    """Take a second for the first inference, in a process of its own."""
    node.start_engine = toy_engines.start_for_node
    return node.main()


def slow_load():
    """Take a minute to load."""
    node.start_engine = lambda choice, rig: time.sleep(60)
    return node.main()


if __name__ == '__main__':
    sys.exit('python -m rosless wire_engines:NAME')
