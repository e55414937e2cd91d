"""alpamayo_ask: ask Alpamayo 1.5 about the images of a recorded drive; the answer is text only."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import sys

from ..bags.reader import Bag
from ..data_types import Context, Prediction, derive_seed
from ..errors import BadInput
from ..images import ImageError
from ..replay.replay import Replay, Schedule, require_topics
from ..rig import CameraRig, load_rig
from ..runtime.constant_velocity import ConstantVelocityEngine
from .engine_arguments import (
    add_engine_arguments,
    add_limits,
    apply_limits,
    check_engine_arguments,
    make_engine,
)
from .entry import command


@command
def main(argv: list[str] | None = None) -> int:
    """Print the answer; 0 done, 1 it did not end within --max-tokens, 2 bad input."""
    parser = argparse.ArgumentParser(prog='alpamayo_ask', description=__doc__, epilog=main.__doc__)
    parser.add_argument('bag', type=Path, metavar='BAG', help='rosbag2 folder, .mcap or .db3')
    parser.add_argument('question', metavar='QUESTION', help='such as "What is ahead?"')
    parser.add_argument('--rig', required=True, metavar='NAME', help='rig file, by name or path')
    parser.add_argument(
        '--t0',
        type=int,
        metavar='NS',
        help='stamp of the anchor frame (default: the first that can be served)',
    )
    parser.add_argument('--json', action='store_true', help='print t0, question and answer')
    add_engine_arguments(parser)
    add_limits(parser)
    arguments = parser.parse_args(argv)
    if arguments.engine != 'alpamayo':
        raise BadInput('--engine: only alpamayo answers questions')
    check_engine_arguments(arguments)
    rig = apply_limits(load_rig(arguments.rig), arguments)
    with Bag(arguments.bag) as bag:
        require_topics(bag, rig)
        context = _find_context(bag, rig, arguments.t0)
    seed = derive_seed(arguments.seed, context.t0_ns)
    try:
        text, has_ended = make_engine(arguments).answer(context, arguments.question, seed)
    except ImageError as error:
        raise BadInput(f'{arguments.bag}: t0 {context.t0_ns}: {error}') from error
    if arguments.json:
        found = {'t0_ns': context.t0_ns, 'question': arguments.question, 'answer': text}
        print(json.dumps({**found, 'has_ended': has_ended}))
    else:
        print(text)
    if not has_ended:
        print(f'the answer did not end within {arguments.max_tokens} tokens', file=sys.stderr)
    return 0 if has_ended else 1


def _find_context(bag: Bag, rig: CameraRig, t0_ns: int | None) -> Context:
    """The context at t0, or the first that there is; raises BadInput with the reason."""
    engine, reason = _KeepsContext(), ''
    for line in Replay(bag, rig, engine, Schedule(0, t0_ns)).lines():
        if engine.context is not None:
            return engine.context
        if 'topic' not in line:
            reason = f': {line["detail"]}'
    raise BadInput(f'{bag.path}: no context{f" at t0 {t0_ns}" if t0_ns else ""}{reason}')


class _KeepsContext(ConstantVelocityEngine):
    """Keeps the context that a replay makes."""

    context: Context | None = None

    def infer(self, context: Context, seed: int) -> Prediction:
        self.context = context
        return super().infer(context, seed)


if __name__ == '__main__':
    sys.exit(main())
