"""The stages of an inference on a scene of full size, for measuring. Knows no clock."""

from __future__ import annotations

from collections.abc import Sequence
import math

import torch
from torch import Tensor

from ..data_types import SamplingOptions
from ..model.alpamayo import AlpamayoModel
from ..model.flow_matching import VelocityField, guide_field
from ..model.prefill import Prompt
from ..model.prompt.tokens import TokenIds
from ..model.reasoning.drafts import PhraseTrie
from ..model.reasoning.generation import Reasoning, feed_marker, generate_reasoning
from ..model.reasoning.speculation import speculate_reasoning
from ..runtime.graphs.recorder import IMAGES_AT_ONCE, GraphRecorder, RecordedVision
from ..runtime.graphs.steps import StaticSteps
from .full_size import FullSizeInputs
from .pictures import make_reader, read_patches

ROUTE_TOKENS = 12  # of a text such as 'Turn left in 30m' with its two marks
GUIDANCE_WEIGHT = 1.5
DRAFT_TOKENS = 7  # with the token before it, a pass has as many rows as a tensor core multiplies
WORDS = 32  # that a reasoning is drawn from: random weights would say any of the vocabulary
ONLY_TOKEN, WRONG_TOKEN = 0, 1  # where drafts are timed: what is always drawn, and what never is
Features = tuple[Tensor, list[Tensor]]


class InferenceStages:
    """The stages over one cache, each callable again and again.

    is_guided: the prompt runs with and without the tokens of a route. kv_bits: of the cache.
    drafts: tokens of the reasoning that a pass accepts on average, 0 for no drafts.
    """

    def __init__(
        self,
        model: AlpamayoModel,
        scene: FullSizeInputs,
        samples: int,
        graphs: bool,
        is_guided: bool,
        kv_bits: int,
        drafts: float = 0.0,
    ) -> None:
        self.model, self.scene, self.is_guided = model, scene, is_guided
        device, copies = model.action_space.accel_mean.device, 2 if is_guided else 1
        self.length = scene.input_ids.shape[1]
        self.tokens_in_all = max(scene.tokens, 1)  # a prompt without reasoning has its marker
        sizes = copies, self.length, samples, self.tokens_in_all
        self.cache = model.allocate_cache(*sizes, kv_bits)
        self.tokens = torch.full((copies, samples), 3, device=device)
        self.reader = make_reader(model.config, device)
        self.drafts = drafts
        draft_tokens = DRAFT_TOKENS if drafts else 0
        self.options = SamplingOptions(
            num_samples=samples, max_tokens=self.tokens_in_all, draft_tokens=draft_tokens
        )
        start = model.config.traj_token_start_idx
        # no marker and no eos among the ids: every run says all of its tokens
        marker = -1 if scene.tokens else 3
        stop = start + model.config.traj_vocab_size
        if scene.tokens:  # a drive says few words; drafts are right where there is one
            start, stop = ONLY_TOKEN + 1 if drafts else WORDS, model.config.vocab_size
        self.ids = TokenIds(0, 0, marker, -1, 0, start, stop, 0)
        self.noise = torch.randn(samples, model.waypoints, 2, device=device)
        self.generator = torch.Generator(device).manual_seed(2)
        recorder = GraphRecorder() if graphs else None
        dtype = scene.patches.dtype
        self.encode: RecordedVision | None = None
        if recorder:
            self.encode = RecordedVision(model.encode_images, recorder, dtype)
        self.features: Features | None = None
        self.vision()
        self.steps: AlpamayoModel | StaticSteps = model
        if recorder:
            self.steps = StaticSteps(
                model, self.cache, samples, recorder.record, is_guided, draft_tokens
            )
        self.prompt = self.prefill()
        self.velocity = self.field()

    @property
    def reads_host(self) -> bool:
        """Whether recorded steps read an embedding that is on the host."""
        return isinstance(self.steps, StaticSteps) and self.steps.known is not None

    def images(self) -> Tensor:
        """Read the patches of all frames on the device; nothing is recorded."""
        return read_patches(self.reader, self.scene.frames)

    def vision(self) -> None:
        """Encode all images; a recorded encoder takes some grid times at once, as the engine."""
        scene, self.features = self.scene, None  # frees the memory of the last ones
        if self.encode is None:
            patches = scene.patches.to(self.noise.device)
            self.features = self.model.encode_images(patches, scene.grids)
            return
        count = max(scene.cameras, IMAGES_AT_ONCE // scene.cameras * scene.cameras)
        count = min(count, len(scene.grids))
        groups = len(scene.grids) // count
        joined: list[Tensor] = []
        for at, patches in enumerate(scene.patches.chunk(groups)):
            there = patches.to(self.noise.device, non_blocking=True)
            embeddings, levels = self.encode(there, scene.grids[:count])
            found = [embeddings, *levels]
            joined = joined or [x.new_empty(groups, *x.shape) for x in found]
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

    def new_token(self) -> Tensor:
        """Run one token whose embedding was not read before, where the table is on the host."""
        assert isinstance(self.steps, StaticSteps)
        assert self.steps.known
        self.steps.known.forget()
        return self.token()

    def draft_pass(self) -> Tensor:
        """Verify a draft behind the prompt and half of the reasoning."""
        samples = self.options.num_samples
        self.cache.length = self.length + samples * (self.tokens_in_all // 2)
        tokens = self.tokens.unsqueeze(-1).repeat(1, 1, 1 + DRAFT_TOKENS)
        return self.steps.verify_step(self.prompt, tokens)

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
        steps, options = self.steps, self.options
        if not self.scene.tokens:
            reasoning = feed_marker(steps.decode_step, prompt, self.ids, options.num_samples)
        elif self.drafts:
            reasoning = speculate_reasoning(
                steps, prompt, self.ids, options, self.generator, RatedDrafts(self.drafts)
            )
        else:
            reasoning = generate_reasoning(
                steps.decode_step, prompt, self.ids, options, self.generator
            )
        field = self._make_field(reasoning)
        return self.model.flow.sample(self.noise, field, self.scene.flow_steps)

    def _make_field(self, reasoning: Reasoning) -> VelocityField:
        field = self.steps.make_velocity_field(self.prompt, reasoning)
        return guide_field(field, GUIDANCE_WEIGHT) if self.is_guided else field


class RatedDrafts(PhraseTrie):
    """Drafts of which a pass accepts so many tokens on average, with the token it draws itself."""

    def __init__(self, tokens_per_pass: float) -> None:
        super().__init__()
        self._rate, self._passes = tokens_per_pass, 0

    def propose(self, text: Sequence[int], count: int) -> list[int]:
        """Right tokens by the rate, then wrong ones."""
        before, self._passes = self._passes, self._passes + 1
        right = math.floor(self._passes * self._rate) - math.floor(before * self._rate) - 1
        return ([ONLY_TOKEN] * right + [WRONG_TOKEN] * count)[:count]
