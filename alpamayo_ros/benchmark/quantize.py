"""Measures time and memory of quantizing and of loading, on a release of random weights.

The release has the true shapes and is written shard by shard. Quantizing and loading are processes
of their own. This process samples their anonymous memory; on a GPU the allocator reports the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
from pathlib import Path
import subprocess
import sys
import time
from typing import Any

from safetensors.torch import save_file
import torch

from ..errors import BadInput
from ..model.config import load_config
from ..model.small.untrained import write_small_checkpoint
from ..runtime.load import build_on_meta
from .full_size import RELEASE, WEIGHT_STD

SHARD_BYTES = 4_000_000_000
BLOCK = 1 << 22  # random numbers that are drawn once and repeated
POLL_S = 0.01

# Loads a checkpoint and prints anonymous memory before and after, and memory of the device.
LOAD = """
import json, sys, torch
from pathlib import Path
from alpamayo_ros.runtime.load import load, plan_load
folder, device, host = sys.argv[1:]
plan = plan_load(Path(folder), device, host_embedding=host == 'True')
gpu = device != 'cpu'
print('begin', flush=True)
sys.stdin.readline()
model = load(plan)
tensors = list(model.state_dict().values())
print(json.dumps({
    'weights': sum(t.nbytes for t in tensors),
    'weights_on_host': sum(t.nbytes for t in tensors if t.device.type == 'cpu'),
    'device_now': torch.cuda.memory_allocated() if gpu else 0,
    'device_peak': torch.cuda.max_memory_allocated() if gpu else 0,
}), flush=True)
"""


def write_release(folder: Path, size: str) -> int:
    """A release of random bf16 weights in shards, in a new folder; returns its bytes."""
    config = RELEASE
    if size == 'small':
        write_small_checkpoint(folder, seed=0)
        config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
        (folder / 'model.safetensors').unlink()
    folder.mkdir(exist_ok=True)
    config = {**config, 'dtype': 'bfloat16'}
    (folder / 'config.json').write_text(json.dumps(config), encoding='utf-8')
    noise = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)).bfloat16() * WEIGHT_STD
    shard: dict[str, torch.Tensor] = {}
    weight_map: dict[str, str] = {}
    total = 0
    shapes = {
        name: tensor.shape
        for name, tensor in build_on_meta(load_config(folder)).state_dict().items()
    }
    for i, (name, shape) in enumerate(shapes.items()):
        values = noise.repeat(-(-shape.numel() // BLOCK))[: shape.numel()].view(shape).clone()
        shard[name] = torch.ones_like(values) if name.endswith('_std') else values
        file = f'model-{total // SHARD_BYTES:05d}.safetensors'
        weight_map[name] = file
        total += shard[name].nbytes
        if (
            total // SHARD_BYTES != (total - shard[name].nbytes) // SHARD_BYTES
            or i == len(shapes) - 1
        ):
            save_file(shard, folder / file)
            shard = {}
    index = {'metadata': {'total_size': total}, 'weight_map': weight_map}
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index), encoding='utf-8')
    return total


def measure_quantize(source: Path, target: Path, options: list[str]) -> dict[str, Any]:
    """Seconds of alpamayo_quantize, and its peak anonymous MB above those at its start."""
    command = [
        sys.executable,
        '-m',
        'alpamayo_ros.cli.quantize',
        str(source),
        str(target),
        *options,
    ]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    before = peak = 0
    while process.poll() is None:
        now = _anonymous_bytes(process.pid)
        unfinished = target.with_name(f'.{target.name}.unfinished')
        if not unfinished.exists():
            before = now
        peak = max(peak, now)
        time.sleep(POLL_S)
    if process.returncode:
        raise BadInput(f'alpamayo_quantize ended with status {process.returncode}')
    return {
        'seconds': round(time.monotonic() - start, 1),
        'host_peak_mb': round((peak - before) / 1e6, 1),
        'stored_gb': round(sum(f.stat().st_size for f in target.glob('*.safetensors')) / 1e9, 3),
    }


def measure_load(folder: Path, device: str, host_embedding: bool) -> dict[str, Any]:
    """MB of the weights, and by how many MB host and device together exceeded them."""
    process = subprocess.Popen(
        [sys.executable, '-c', LOAD, str(folder), device, str(host_embedding)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()
    before = peak = _anonymous_bytes(process.pid)
    start = time.monotonic()
    process.stdin.write('\n')
    process.stdin.flush()
    while process.poll() is None:
        peak = max(peak, _anonymous_bytes(process.pid))
        time.sleep(POLL_S)
    if process.returncode:
        raise BadInput(f'loading ended with status {process.returncode}')
    found: Mapping[str, int] = json.loads(process.stdout.readline())
    on_host = found['weights'] if device == 'cpu' else 0
    overshoot = max(peak - before - on_host, 0) + found['device_peak'] - found['device_now']
    return {
        'seconds': round(time.monotonic() - start, 1),
        'weights_gb': round(found['weights'] / 1e9, 3),
        'device_gb': round(found['device_now'] / 1e9, 3),
        'overshoot_mb': round(overshoot / 1e6, 1),
    }


def _anonymous_bytes(pid: int) -> int:
    """Anonymous memory of a process, without the pages of files that it maps."""
    try:
        text = Path(f'/proc/{pid}/status').read_text(encoding='utf-8')
    except OSError:
        return 0  # it has just ended
    line = next((x for x in text.splitlines() if x.startswith('RssAnon:')), 'RssAnon: 0')
    return int(line.split()[1]) * 1024
