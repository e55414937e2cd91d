"""A checkpoint folder to a model on a device. Knows no tokenizer and no context."""

from __future__ import annotations

from pathlib import Path
import re

import torch

from ..errors import BadInput
from ..model.alpamayo import AlpamayoR1
from ..model.checkpoint import load_weights
from ..model.config import AlpamayoConfig, load_config

DTYPES = {'float32': torch.float32, 'float16': torch.float16, 'bfloat16': torch.bfloat16}


def load_model(folder: Path, device: str = 'cpu') -> AlpamayoR1:
    """The model of a checkpoint folder on a device, in the checkpoint's dtype, loaded strictly.

    Raises BadInput for a device that is absent, a config or tensors that do not fit.
    """
    check_device(device)
    config = load_config(folder)
    dtype = DTYPES.get(config.dtype)
    if dtype is None:
        raise BadInput(
            f'{folder}/config.json: dtype {config.dtype!r} is not one of {list(DTYPES)}'
        )
    model = build_on_meta(config)
    load_weights(model, folder, device, dtype)
    return model.eval()


def build_on_meta(config: AlpamayoConfig) -> AlpamayoR1:
    """The module tree without memory behind it; loading brings the tensors."""
    with torch.device('meta'):
        return AlpamayoR1(config)


def check_device(device: str) -> None:
    """Raise BadInput unless this torch can use `device`."""
    kind = device.partition(':')[0]
    if not re.fullmatch(r'cpu|cuda(:\d+)?', device):
        raise BadInput(f'device {device!r} is not one of: cpu, cuda, cuda:N')
    if kind == 'cuda' and not torch.cuda.is_available():
        raise BadInput(f'device {device!r}: this torch ({torch.__version__}) sees no CUDA device')
    index = device.partition(':')[2]
    if index and int(index) >= torch.cuda.device_count():
        raise BadInput(f'device {device!r}: there are {torch.cuda.device_count()} CUDA devices')
