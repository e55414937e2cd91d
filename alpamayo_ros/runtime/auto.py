"""AutoConfig and AutoModel for Alpamayo folders: importing this module registers `alpamayo_r1`.

`AutoModel.from_pretrained(DIR)`, or of a hub id, then gives our AlpamayoR1, loaded strictly; no
code of the folder runs, and attention is always torch's own whatever the file says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig

from ..errors import BadInput
from ..hub import resolve
from ..model.alpamayo import AlpamayoR1
from .load import load_model

ADDED_BY_AUTO_MODEL = {'revision', 'adapter_kwargs', 'trust_remote_code', '_from_auto'}


class AlpamayoR1AutoConfig(PretrainedConfig):
    """The keys of config.json as attributes; nothing is built and nothing is fetched."""

    model_type = 'alpamayo_r1'

    def __init__(self, **keys: Any) -> None:
        # flash_attention_2 in a release has no effect in the reference, and the expert's
        # mask does not fit it
        keys['attn_implementation'] = 'sdpa'
        super().__init__(**keys)


class AlpamayoR1AutoModel(AlpamayoR1):
    """AlpamayoR1 with transformers' way of loading."""

    config_class = AlpamayoR1AutoConfig

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        config: AlpamayoR1AutoConfig | None = None,
        dtype: str | torch.dtype = 'auto',
        device: str = 'cpu',
        **auto: Any,
    ) -> nn.Module:
        """The model of a checkpoint folder or hub id, in its own dtype on the device.

        `config` and `auto` are what AutoModel adds of itself (revision and the like). Raises
        BadInput for another dtype than the checkpoint's (cast the loaded module instead) and for
        an option that has no meaning here.
        """
        unknown = sorted(set(auto) - ADDED_BY_AUTO_MODEL)
        if unknown:
            raise BadInput(f'{folder}: from_pretrained does not take {", ".join(unknown)}')
        model = load_model(resolve(folder), device)
        own = model.vlm.lm_head.weight.dtype
        if dtype not in ('auto', own, str(own).removeprefix('torch.')):
            raise BadInput(f'{folder}: the checkpoint is {own}, dtype={dtype} was asked for')
        return model


AutoConfig.register('alpamayo_r1', AlpamayoR1AutoConfig)
AutoModel.register(AlpamayoR1AutoConfig, AlpamayoR1AutoModel)
