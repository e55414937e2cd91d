"""The parts of alpamayo_benchmark that need torch: `engine`, `quantize` and `kernels`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
import json
from pathlib import Path
import sys
import tempfile
from typing import Any

from tqdm import tqdm

from ..errors import BadInput
from ..profiles import split_names
from .engine_arguments import add_device_argument, add_profile_arguments, resolve_profile

STAGES = ('images', 'vision', 'prefill', 'token', 'flow_step', 'end_to_end')
COLUMNS = (*STAGES, 'frames_to_trajectory', 'weights_gb', 'peak_gb', 'largest_gb')
PLAIN, STOCK = '16 bits', 'optimum-quanto qint2'
PLAIN_BITS = 16.0
SLOW_RUNS = 3  # of what takes seconds


@dataclass(frozen=True)
class BenchmarkCase:
    """One row of the table: samples, whether steps are recorded and guided, bits of the cache.

    drafts: tokens of the reasoning that a pass accepts, 0 without drafts.
    """

    samples: int
    graphs: bool
    is_guided: bool = False
    kv_bits: int = 16
    drafts: float = 0.0

    @property
    def title(self) -> str:
        """Name of the row."""
        guided = ' guided' if self.is_guided else ''
        return f'{"recorded" if self.graphs else "eager"} K={self.samples}{guided}'


def add_engine(parts: Any) -> None:
    """Arguments of `engine`."""
    text = 'a model with random weights, stage by stage, on a scene of the size of the release'
    part = parts.add_parser('engine', help=text, description=text)
    _add_model(part, PLAIN_BITS, '11 billion weights')
    part.add_argument(
        '--host-embedding', action='store_true', help='a packed embedding in memory of the host'
    )
    part.add_argument(
        '--compare',
        nargs='?',
        const='all',
        choices=('all', 'recorded'),
        help='16 bits and optimum-quanto beside it, in this run; or recorded 16 bits alone',
    )
    part.add_argument(
        '--samples', type=int, nargs='+', default=[1, 6], metavar='K', help='default: 1 6'
    )
    part.add_argument(
        '--guidance', action='store_true', help='also with and without a route text, first K'
    )
    add_profile_arguments(part)
    part.add_argument(
        '--drafts',
        type=float,
        default=0.0,
        metavar='X',
        help='drafts of the reasoning: a pass accepts X tokens on average (default: none)',
    )
    part.add_argument(
        '--slice',
        type=int,
        metavar='N',
        help='on N multiprocessors of the GPU, with the kernels of an Orin; estimates for boards',
    )
    part.add_argument('--out', type=Path, metavar='FILE', help='JSON, written after every case')
    packages = ('numpy', 'torch', 'triton', 'transformers', 'optimum-quanto')
    part.set_defaults(run=benchmark_engine, packages=packages)


def _add_model(part: argparse.ArgumentParser, bits: float, release: str) -> None:
    """Arguments of a model with random weights; release: what to know of its full size."""
    sizes = f'of the release ({release}), or of the small checkpoint (default: small)'
    part.add_argument('--size', choices=('full', 'small'), default='small', help=sizes)
    add_device_argument(part)
    _add_widths(part, bits)


def _add_widths(part: argparse.ArgumentParser, bits: float) -> None:
    part.add_argument(
        '--bits', type=float, default=bits, help=f'of the weights (default {bits:g})'
    )
    part.add_argument('--recipe', default='mixed', help='which module has how many (mixed)')


def benchmark_engine(arguments: argparse.Namespace) -> dict[str, Any]:
    """Eager, and on a GPU with recorded CUDA graphs; milliseconds and GB per case.

    What fails is named under 'failed' with a line of its error, and the rest is measured.
    """
    import torch  # takes seconds to import

    from ..benchmark import full_size
    from ..benchmark.conclusions import conclude
    from ..benchmark.stages import DRAFT_TOKENS
    from ..benchmark.stock_quanto import stock_model
    from ..model.config import load_config, parse_config
    from ..model.small.untrained import write_small_checkpoint
    from ..quantization.scheme import make_rules
    from ..runtime.load import check_device

    if min(arguments.samples) < 1:
        raise BadInput(f'--samples {min(arguments.samples)}: expected 1 or more')
    if arguments.drafts and not 1 <= arguments.drafts <= 1 + DRAFT_TOKENS:
        raise BadInput(f'--drafts {arguments.drafts:g}: expected 1 to {1 + DRAFT_TOKENS}, or 0')
    check_device(arguments.device)
    bits, device = arguments.bits, arguments.device
    if arguments.slice is not None:
        if device == 'cpu' or arguments.slice < 1 or arguments.compare:
            raise BadInput(
                f'--slice {arguments.slice}: expected 1 or more, --device cuda and no --compare'
            )
        from ..benchmark.slice import enter_slice

        enter_slice(arguments.slice)
    chosen = resolve_profile(arguments)
    if chosen.pixels:
        raise BadInput(f'--pixels {chosen.pixels}: the scene has images of 320x576 only')
    host = arguments.host_embedding
    rules = make_rules(arguments.recipe, bits)  # looked up for 16 bits as well: it may be misspelt
    rules = rules if bits != PLAIN_BITS else ()
    out = arguments.out
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise BadInput(f'--out {out}: expected a file in a folder that exists')
    gpu = device != 'cpu'
    dtype = torch.bfloat16 if gpu else torch.float32
    config = parse_config(full_size.RELEASE)
    if arguments.size == 'small':
        with tempfile.TemporaryDirectory() as folder:
            write_small_checkpoint(Path(folder) / 'small', seed=0)
            config = load_config(Path(folder) / 'small')

    name = f'{bits:g} bits {arguments.recipe}' if rules else PLAIN
    first = arguments.samples[0]
    own = {'kv_bits': chosen.kv_bits, 'drafts': arguments.drafts}
    main = [BenchmarkCase(samples, gpu, **own) for samples in arguments.samples]
    main += [BenchmarkCase(first, gpu, is_guided=True, **own)] * arguments.guidance
    main += [BenchmarkCase(first, False, **own)] * (gpu and arguments.compare == 'all')
    ways: list[tuple[str, Callable[[], Any], list[BenchmarkCase]]] = [
        (
            name,
            lambda: full_size.random_model(config, device, dtype, rules, host, chosen.activations),
            main,
        )
    ]
    is_whole = arguments.compare == 'all'
    if arguments.compare:
        ways += [
            (
                PLAIN,
                lambda: full_size.random_model(config, device, dtype),
                [BenchmarkCase(first, gpu), BenchmarkCase(first, False)][: 1 + (gpu and is_whole)],
            ),
        ]
    if is_whole:
        eager = [BenchmarkCase(first, False)]
        ways.append((STOCK, lambda: stock_model(config, device, dtype), eager))
    found: dict[str, Any] = {
        **arguments.card,
        'size': arguments.size,
        'device': torch.cuda.get_device_name(device) if gpu else 'cpu',
        'dtype': str(dtype).removeprefix('torch.'),
        'profile': vars(chosen),
        'command': ' '.join(['alpamayo_benchmark', *sys.argv[1:]]),
    }
    scene = full_size.make_scene(
        config,
        device,
        dtype,
        len(split_names(chosen.cameras)) or full_size.CAMERAS,
        0 if chosen.reasoning == 'none' else full_size.REASONING_TOKENS,
        chosen.flow_steps or full_size.FLOW_STEPS,
    )
    with tqdm(total=sum(len(way[2]) for way in ways), unit='case', dynamic_ncols=True) as bar:
        for name, make, cases in ways:
            bar.set_description(name)
            found[name] = {}
            runs = SLOW_RUNS if name == STOCK or arguments.slice is not None else None
            for section, figures, error in _measure_way(make, scene, cases, runs, name == STOCK):
                bar.update(section in [case.title for case in cases])
                if error:
                    found.setdefault('failed', {})[f'{name}, {section}'] = error
                else:
                    found[name][section] = figures
                _keep(found, out)
    if arguments.slice is not None:
        from ..benchmark.slice import measure_clocks

        found['clocks'] = measure_clocks()
    kind = 'recorded' if gpu else 'eager'
    note = conclude(found, [way[0] for way in ways], kind, arguments.samples, arguments.slice)
    if note:
        print(note)
    _keep(found, out)
    _show(found, [way[0] for way in ways])
    return found


def _keep(found: Mapping[str, Any], out: Path | None) -> None:
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')


def _measure_way(
    make: Callable[[], Any],
    scene: Any,
    cases: list[BenchmarkCase],
    runs: int | None,
    is_stock: bool,
) -> Iterator[tuple[str, Any, str]]:
    """Section, figures and error ('' if there is none) of one model, as they come."""
    from ..benchmark import engine as engine_benchmark
    from ..benchmark import full_size, roofline

    model, error = engine_benchmark.attempt(make)
    if error:
        yield 'model', None, error
        return
    yield 'bytes', full_size.module_bytes(model), ''
    runs = runs or engine_benchmark.RUNS
    for case in cases:
        options = case.samples, case.graphs, runs, case.is_guided, case.kv_bits, case.drafts
        measure = partial(engine_benchmark.measure, model, scene, *options)
        yield case.title, *engine_benchmark.attempt(measure)
    if not is_stock:
        length = scene.input_ids.shape[1]
        yield 'work', roofline.count_work(model, len(scene.frames), length, cases[0].kv_bits), ''
        one_image = partial(engine_benchmark.time_one_image, model, scene)
        yield 'one_image', *engine_benchmark.attempt(one_image)
        linears = partial(engine_benchmark.linear_layers, model, graphs=scene.patches.is_pinned())
        yield 'linears', *engine_benchmark.attempt(linears)


def _show(found: Mapping[str, Any], names: list[str]) -> None:
    """Print bytes by part, the table of cases, and what was concluded."""
    for name in names:
        parts = ', '.join(
            f'{part} {size / 1e9:.3f}' for part, size in found[name].get('bytes', {}).items()
        )
        print(f'{name}: GB of {parts}')
    print(f'\n{"":34}' + ''.join(f'{column[:11]:>12}' for column in COLUMNS))
    for name in names:
        for case, figures in found[name].items():
            if isinstance(figures, dict) and 'samples' in figures:
                cells = (figures[column] for column in COLUMNS)
                row = ''.join(f'{"-":>12}' if x is None else f'{x:12.3f}' for x in cells)
                print(f'{name + ", " + case:34}{row}')
    for name in names:
        for stage, ms in found[name].get('linears', {}).items():
            print(f'{name + ", " + stage:34}{ms:12.3f}')
    for name, table in found.get('boards', {}).items():
        text = (
            ', '.join(f'{k} {v:g} ms' for k, v in table.items())
            if name != 'assumptions'
            else table
        )
        print(f'{name}: {text}')
    print()


def add_quantize(parts: Any) -> None:
    """Arguments of `quantize`."""
    text = 'memory of quantizing a release of random weights, and of loading the result'
    part = parts.add_parser('quantize', help=text, description=text)
    _add_model(part, 2.0, 'needs 30 GB in --folder')
    part.add_argument('--solver', default='mse', help='mse (default), hqq or minmax')
    part.add_argument('--host-embedding', action='store_true', help='leave it in its file')
    part.add_argument(
        '--folder', type=Path, metavar='DIR', help='for release and result, which go afterwards'
    )
    part.set_defaults(run=benchmark_quantize, packages=('numpy', 'torch', 'safetensors'))


def benchmark_quantize(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write a release, quantize it, load the result."""
    from ..benchmark import quantize as benchmark
    from ..quantization.scheme import make_rules
    from ..runtime.load import check_device

    check_device(arguments.device)
    make_rules(arguments.recipe, arguments.bits)
    keys = ('bits', 'recipe', 'solver', 'device')
    options = [x for key in keys for x in (f'--{key}', str(getattr(arguments, key)))]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        source, target = Path(place) / 'release', Path(place) / 'quantized'
        total = benchmark.write_release(source, arguments.size)
        found = {'size': arguments.size, 'release_gb': round(total / 1e9, 3)}
        found |= {key: getattr(arguments, key) for key in keys}
        quantized = benchmark.measure_quantize(source, target, options)
        loaded = benchmark.measure_load(target, arguments.device, arguments.host_embedding)
    return {**found, 'quantize': quantized, 'load': loaded}


def add_kernels(parts: Any) -> None:
    """Arguments of `kernels`."""
    text = 'what the packed products compile to for an Orin Nano (sm_87), which need not be there'
    part = parts.add_parser('kernels', help=text, description=text)
    _add_widths(part, 2.0)
    part.set_defaults(run=benchmark_kernels, packages=('torch', 'triton'))


def benchmark_kernels(arguments: argparse.Namespace) -> dict[str, Any]:
    """Tile, registers, spills, shared memory and instructions of every product of few rows."""
    from ..quantization.scheme import make_rules

    try:
        from ..benchmark import kernels
    except ImportError:
        raise BadInput('triton is not installed: pip install triton') from None
    from ..kernels.gpu import ORIN_NANO

    products = kernels.count_release(make_rules(arguments.recipe, arguments.bits), ORIN_NANO)
    found: dict[str, Any] = {'target': 'sm_87, 8 multiprocessors'}
    found |= {key: getattr(arguments, key) for key in ('bits', 'recipe')}
    for title, counts in tqdm(products, desc='compile', dynamic_ncols=True):
        found[title] = kernels.flatten(counts)
    return found
