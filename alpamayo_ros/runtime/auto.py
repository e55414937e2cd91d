"""AutoConfig and AutoModel for Alpamayo R1 and 1.5: importing this module registers both.

`AutoModel.from_pretrained(DIR)`, or of a hub id, then gives our AlpamayoModel, loaded strictly; no
code of the folder runs, and attention is always torch's own whatever the file says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig

from ..errors import BadInput
from ..hub import resolve_checkpoint
from ..model.alpamayo import AlpamayoModel
from .load import load_model

ADDED_BY_AUTO_MODEL = {'revision', 'adapter_kwargs', 'trust_remote_code', '_from_auto'}


class AlpamayoR1AutoConfig(PretrainedConfig):
    """The keys of config.json as attributes; this builds and downloads nothing."""

    model_type = 'alpamayo_r1'

    def __init__(self, **keys: Any) -> None:
        # the flash_attention_2 of a release has no effect in the reference, and it cannot take
        # the expert's mask
        keys['attn_implementation'] = 'sdpa'
        super().__init__(**keys)


class Alpamayo15AutoConfig(AlpamayoR1AutoConfig):
    """The same for Alpamayo 1.5 (architecture `Alpamayo1_5`)."""

    model_type = 'alpamayo1_5'


class AlpamayoR1AutoModel(AlpamayoModel):
    """AlpamayoModel with the loading interface of transformers."""

    config_class: type[PretrainedConfig] = AlpamayoR1AutoConfig

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        config: AlpamayoR1AutoConfig | None = None,
        dtype: str | torch.dtype = 'auto',
        device: str = 'cpu',
        **auto: Any,
    ) -> nn.Module:
        """Load a checkpoint folder or hub id, in the checkpoint's dtype, onto the device.

        `config` and `auto` hold what AutoModel adds by itself (such as revision). Raises BadInput
        for another dtype than the checkpoint's (cast the loaded module instead) and for an option
        that has no meaning here.
        """
        unknown = sorted(set(auto) - ADDED_BY_AUTO_MODEL)
        if unknown:
            raise BadInput(f'{folder}: from_pretrained does not take {", ".join(unknown)}')
        model = load_model(resolve_checkpoint(folder), device)
        own = model.vlm.lm_head.weight.dtype
        if dtype not in ('auto', own, str(own).removeprefix('torch.')):
            raise BadInput(f'{folder}: the checkpoint is {own}, dtype={dtype} was asked for')
        return model


class Alpamayo15AutoModel(AlpamayoR1AutoModel):
    """The same for Alpamayo 1.5."""

    config_class = Alpamayo15AutoConfig


AutoConfig.register('alpamayo_r1', AlpamayoR1AutoConfig)
AutoConfig.register('alpamayo1_5', Alpamayo15AutoConfig)
AutoModel.register(AlpamayoR1AutoConfig, AlpamayoR1AutoModel)
AutoModel.register(Alpamayo15AutoConfig, Alpamayo15AutoModel)
