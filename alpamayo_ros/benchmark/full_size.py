"""The release's sizes with random weights, and a scene of the size that it sees.

Every tensor is drawn on the device, a packed one as bytes. So a full-size model never lies on the
host, and packed layers are never dense. Knows no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data_types import FRAMES_PER_CAMERA, Frame
from ..kernels.packing import count_digits
from ..model.alpamayo import AlpamayoModel
from ..model.checkpoint import set_tensor
from ..model.config import AlpamayoConfig
from ..quantization.linear import replace_linears
from ..quantization.packed_weight import PackedWeight
from ..quantization.scheme import Rules
from ..runtime.load import (
    build_on_meta,
    join_products,
    split_large_head,
    use_int8_activations,
)
from .pictures import make_frames

# Sizes of the release (docs/model.md); the classes have defaults for what is absent.
RELEASE: dict[str, Any] = {
    'model_type': 'alpamayo_r1',
    'vlm_name_or_path': 'Qwen/Qwen3-VL-8B-Instruct',
    'vocab_size': 155697,
    'traj_token_start_idx': 151669,
    'traj_vocab_size': 4000,
    'traj_token_ids': {'history': 155684, 'future_start': 155681},
    'tokens_per_history_traj': 48,
    'tokens_per_future_traj': 128,
    'expert_cfg': {'hidden_size': 2048, 'intermediate_size': 8256, 'num_attention_heads': 16},
    'action_in_proj_cfg': {
        '_target_': 'alpamayo_r1.models.action_in_proj.PerWaypointActionInProjV2'
    },
    'action_out_proj_cfg': {'_target_': 'torch.nn.Linear'},
    'diffusion_cfg': {'_target_': 'alpamayo_r1.diffusion.flow_matching.FlowMatching'},
    'action_space_cfg': {'_target_': 'alpamayo_r1.action_space.UnicycleAccelCurvatureActionSpace'},
    'traj_tokenizer_cfg': {
        '_target_': 'alpamayo_r1.models.delta_tokenizer.DeltaTrajectoryTokenizer'
    },
}
CAMERAS = 4
IMAGES = CAMERAS * FRAMES_PER_CAMERA
GRID = (20, 36)  # 320x576 in patches of 16
PROMPT_TOKENS = 3032
TEXT_TOKENS = 120  # of them, beside the images
REASONING_TOKENS = 32
FLOW_STEPS = 10
WEIGHT_STD = 0.02
PARTS = {
    'vision': 'vlm.model.visual.',
    'language': 'vlm.model.language_model.layers.',
    'embedding': 'vlm.model.language_model.embed_tokens.',
    'head': 'vlm.lm_head.',
    'expert': 'expert.',
}


@dataclass(frozen=True)
class FullSizeInputs:
    """Inputs of the size that the release sees, random inside; they wait on the host.

    frames: the images as a camera sends them, JPEG of 1920x1080. tokens: of the reasoning, 0 for
    none. flow_steps: of flow matching.
    """

    frames: list[Frame]
    input_ids: Tensor
    patches: Tensor
    grids: list[tuple[int, int]]
    tokens: int
    flow_steps: int

    @property
    def cameras(self) -> int:
        """How many cameras have sent the frames."""
        return len(self.frames) // FRAMES_PER_CAMERA


def module_bytes(model: nn.Module) -> dict[str, int]:
    """Bytes of the weights by part."""
    found = dict.fromkeys([*PARTS, 'other'], 0)
    for name, tensor in model.state_dict().items():
        part = next((p for p, prefix in PARTS.items() if name.startswith(prefix)), 'other')
        found[part] += _stored_bytes(tensor)
    return found


def device_bytes(model: nn.Module, device: torch.device) -> int:
    """Bytes of the weights that lie on a device."""
    tensors = model.state_dict().values()
    return sum(_stored_bytes(x) for x in tensors if x.device.type == device.type)


def _stored_bytes(tensor: Any) -> int:
    """Bytes that a tensor holds; those of optimum-quanto look dense and hold packed parts."""
    if hasattr(tensor, '__tensor_flatten__'):
        return sum(_stored_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return int(tensor.nbytes)


def random_model(
    config: AlpamayoConfig,
    device: str,
    dtype: torch.dtype,
    rules: Rules = (),
    host_embedding: bool = False,
    activations: int = 16,
) -> AlpamayoModel:
    """The model with weights of 0.02, norms of one and the config's buffers, packed by rules.

    host_embedding: a packed embedding lies in the memory of the host, as one mapped from its file.
    activations: bits of the inputs of products, see `load`.
    """
    model = build_on_meta(config)
    replace_linears(model, rules)
    if rules:
        split_large_head(model, rules, dtype)
    generator = torch.Generator(device).manual_seed(0)
    for name, tensor in model.state_dict().items():
        weight = _packed_weight(model, name)
        if weight is not None:
            on_host = host_embedding and name.startswith(PARTS['embedding'])
            place, draw = ('cpu', None) if on_host else (device, generator)
            leaf = name.rpartition('.')[2]
            value = _packed_tensor(leaf, weight, tensor.shape, place, dtype, draw)
        else:
            value = draw_plain_tensor(model, name, dtype, generator)
        set_tensor(model, name, value)
    join_products(model)
    if activations == 8:
        use_int8_activations(model)
    return model.eval()


def draw_plain_tensor(
    model: nn.Module, name: str, dtype: torch.dtype, generator: torch.Generator
) -> Tensor:
    """A tensor of full precision: the config's buffer, ones of a norm, or random weights."""
    module, _, leaf = name.rpartition('.')
    owner: Any = model.get_submodule(module)
    if leaf in owner._buffers:
        buffer: Tensor = owner.make_buffers()[leaf].to(generator.device, dtype)
        return buffer
    shape = getattr(owner, leaf).shape
    if len(shape) == 1 and leaf == 'weight':
        return torch.ones(shape, device=generator.device, dtype=dtype)
    empty = torch.empty(shape, device=generator.device, dtype=dtype)
    return empty.normal_(std=WEIGHT_STD, generator=generator)


def make_scene(
    config: AlpamayoConfig,
    device: str,
    dtype: torch.dtype,
    cameras: int = CAMERAS,
    tokens: int = REASONING_TOKENS,
    flow_steps: int = FLOW_STEPS,
) -> FullSizeInputs:
    """Images behind each other, then text up to the length of a real prompt."""
    per_image = GRID[0] * GRID[1] // config.vision.spatial_merge_size**2
    count = cameras * FRAMES_PER_CAMERA
    ids: list[int] = []
    for _ in range(count):
        ids += [1, *[config.image_token_id] * per_image, 2]
    ids += [3] * TEXT_TOKENS
    shape = (count * GRID[0] * GRID[1], 3 * 2 * 16 * 16)
    patches = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    if device != 'cpu':
        patches = patches.pin_memory()
    prompt = torch.tensor([ids])
    return FullSizeInputs(make_frames(count), prompt, patches, [GRID] * count, tokens, flow_steps)


def _packed_weight(model: AlpamayoModel, name: str) -> PackedWeight | None:
    """The packed weight that a tensor is part of."""
    path = name.split('.')
    for depth in (1, 2):
        owner = model.get_submodule('.'.join(path[:-depth]))
        if isinstance(owner, PackedWeight):
            return owner
    return None


def _packed_tensor(
    leaf: str,
    weight: PackedWeight,
    shape: torch.Size,
    device: str,
    dtype: torch.dtype,
    generator: torch.Generator | None,
) -> Tensor:
    """Random codes, with scales that make weights of WEIGHT_STD from them, about zero."""
    levels = weight.levels
    if leaf == '_data':
        low, high = (-127, 128) if levels == 256 else (0, levels ** count_digits(levels))
        kind = torch.int8 if levels == 256 else torch.uint8
        return torch.randint(low, high, shape, generator=generator, device=device, dtype=kind)
    scale = WEIGHT_STD / ((levels**2 - 1) / 12) ** 0.5
    value = scale if leaf == '_scale' else scale * (levels - 1) / 2
    return torch.full(shape, value, device=device, dtype=dtype)
