"""The stages of an inference on a scene of full size, for measuring. Knows no clock."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data_types import SamplingOptions
from ..model.alpamayo import AlpamayoModel
from ..model.flow_matching import VelocityField, guide_field
from ..model.prefill import Prompt
from ..model.prompt.tokens import TokenIds
from ..model.reasoning import Reasoning, feed_marker, generate_reasoning
from ..runtime.graphs import GraphRecorder, RecordedVision, StaticSteps
from .full_size import FullSizeInputs
from .pictures import make_reader, read_patches

ROUTE_TOKENS = 12  # of a text such as 'Turn left in 30m' with its two marks
GUIDANCE_WEIGHT = 1.5
Features = tuple[Tensor, list[Tensor]]


class InferenceStages:
    """The stages over one cache, each callable again and again.

    is_guided: the prompt runs with and without the tokens of a route. kv_bits: of the cache.
    """

    def __init__(
        self,
        model: AlpamayoModel,
        scene: FullSizeInputs,
        samples: int,
        graphs: bool,
        is_guided: bool,
        kv_bits: int,
    ) -> None:
        self.model, self.scene, self.is_guided = model, scene, is_guided
        device, copies = model.action_space.accel_mean.device, 2 if is_guided else 1
        self.length = scene.input_ids.shape[1]
        self.tokens_in_all = max(scene.tokens, 1)  # a prompt without reasoning has its marker
        sizes = copies, self.length, samples, self.tokens_in_all
        self.cache = model.allocate_cache(*sizes, kv_bits)
        self.tokens = torch.full((copies, samples), 3, device=device)
        self.reader = make_reader(model.config, device)
        self.options = SamplingOptions(num_samples=samples, max_tokens=self.tokens_in_all)
        start = model.config.traj_token_start_idx
        # no marker and no eos among the ids: every run says all of its tokens
        marker = -1 if scene.tokens else 3
        stop = start + model.config.traj_vocab_size
        self.ids = TokenIds(0, 0, marker, -1, 0, start, stop, 0)
        self.noise = torch.randn(samples, model.waypoints, 2, device=device)
        self.generator = torch.Generator(device).manual_seed(2)
        recorder = GraphRecorder() if graphs else None
        self.encode = RecordedVision(model.encode_images, recorder) if recorder else None
        self.features: Features | None = None
        self.vision()
        self.steps: AlpamayoModel | StaticSteps = model
        if recorder:
            self.steps = StaticSteps(model, self.cache, samples, recorder.record, is_guided)
        self.prompt = self.prefill()
        self.velocity = self.field()

    def images(self) -> Tensor:
        """Read the patches of all frames on the device; nothing is recorded."""
        return read_patches(self.reader, self.scene.frames)

    def vision(self) -> None:
        """Encode all images; a recorded encoder takes one grid time after the other."""
        scene, self.features = self.scene, None  # frees the memory of the last ones
        if self.encode is None:
            patches = scene.patches.to(self.noise.device)
            self.features = self.model.encode_images(patches, scene.grids)
            return
        slots = len(scene.grids) // scene.cameras
        joined: list[Tensor] = []
        for at, patches in enumerate(scene.patches.chunk(slots)):
            there = patches.to(self.noise.device, non_blocking=True)
            embeddings, levels = self.encode(there, scene.grids[: scene.cameras])
            found = [embeddings, *levels]
            joined = joined or [x.new_empty(slots, *x.shape) for x in found]
            for whole, part in zip(joined, found, strict=True):
                whole[at] = part
        self.features = joined[0].flatten(0, 1), [x.flatten(0, 1) for x in joined[1:]]

    def prefill(self) -> Prompt:
        """Run the prompt; with guidance also without the tokens of a route, on equal features."""
        self.cache.length = 0
        scene, features, lengths = self.scene, self.features, None
        assert features is not None
        ids = scene.input_ids.repeat(len(self.tokens), 1)
        if self.is_guided:
            lengths = torch.tensor([self.length, self.length - ROUTE_TOKENS])
        return self.model.prefill(
            ids, features, scene.grids, self.cache,
            steps=self.steps, lengths=lengths, is_guided=self.is_guided,
        )  # fmt: skip

    def token(self) -> Tensor:
        """Run one token behind the prompt and half of the reasoning."""
        samples = self.options.num_samples
        self.cache.length = self.length + samples * (self.tokens_in_all // 2)
        return self.steps.decode_step(self.prompt, self.tokens)

    def flow_step(self) -> Tensor:
        """Run one flow step; what all steps share was made before."""
        time = torch.zeros(len(self.noise), 1, 1, device=self.noise.device)
        return self.velocity(self.noise, time)

    def field(self) -> VelocityField:
        """Make the velocity field behind a reasoning of the whole budget."""
        samples, tokens = self.options.num_samples, self.tokens_in_all
        self.cache.length = self.length + samples * tokens
        marker = torch.full((1, samples), tokens - 1, device=self.noise.device)
        words = torch.zeros(1, samples, tokens, device=self.noise.device)
        no = torch.zeros_like(marker, dtype=torch.bool)
        return self._make_field(Reasoning(words, marker, no, no, self.length + tokens))

    def whole_from_frames(self) -> Tensor:
        """Run everything, from encoded frames to normalised actions (K, T, 2)."""
        self.images()
        return self.whole()

    def whole(self) -> Tensor:
        """Run everything, from patches to normalised actions (K, T, 2)."""
        self.vision()
        prompt = self.prompt = self.prefill()
        step, options = self.steps.decode_step, self.options
        if self.scene.tokens:
            reasoning = generate_reasoning(step, prompt, self.ids, options, self.generator)
        else:
            reasoning = feed_marker(step, prompt, self.ids, options.num_samples)
        field = self._make_field(reasoning)
        return self.model.flow.sample(self.noise, field, self.scene.flow_steps)

    def _make_field(self, reasoning: Reasoning) -> VelocityField:
        field = self.steps.make_velocity_field(self.prompt, reasoning)
        return guide_field(field, GUIDANCE_WEIGHT) if self.is_guided else field
