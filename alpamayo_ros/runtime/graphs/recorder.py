"""Records functions as CUDA graphs, and the vision tower for each set of image sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

WARM_UP_RUNS = 2  # before a recording: they compile kernels and allocate workspaces
MAX_SIZES = 2  # sets of image sizes whose recordings are kept: a rig has two
# Fewer leave a third of an H200 idle; more than these take more memory than a prompt does.
IMAGES_AT_ONCE = 8

Grid = tuple[int, int]
Features = tuple[Tensor, list[Tensor]]
Result = TypeVar('Result')


class RecordedVision:
    """AlpamayoModel.encode_images as CUDA graphs, one recording for each set of image sizes.

    dtype: of the patches that a recording reads, the model's. The next call overwrites the result.
    """

    def __init__(
        self,
        encode: Callable[[Tensor, Sequence[Grid], int], Features],
        recorder: GraphRecorder,
        dtype: torch.dtype,
    ) -> None:
        self._encode, self._record, self._dtype = encode, recorder.record, dtype
        self._recorded: dict[tuple[Grid, ...], tuple[Tensor, Callable[[], Features]]] = {}

    def __call__(self, patches: Tensor, grids: Sequence[Grid]) -> Features:
        """Embeddings and deepstack levels (tokens, H) of patches (sum of h * w, 1536)."""
        key = tuple(grids)
        if key not in self._recorded:
            if len(self._recorded) == MAX_SIZES:
                self.clear()
            own = patches.to(self._dtype, copy=True)
            run = self._record(lambda: self._encode(own, key, IMAGES_AT_ONCE))
            self._recorded[key] = own, run
        own, replay = self._recorded[key]
        own.copy_(patches)
        return replay()

    def clear(self) -> None:
        """Forget the recordings and free their memory."""
        self._recorded.clear()


class GraphRecorder:
    """Records CUDA graphs that share one memory pool, since they never run at the same time.

    A replay may overwrite the results of every other graph: use or copy a result at once.
    """

    def __init__(self) -> None:
        self._pool: Any = None
        # keeps the pool alive when all other recordings are gone: an empty pool cannot be reused
        self._keeper = self._capture(lambda: torch.zeros(1, device='cuda'))[0]
        self._pool = self._keeper.pool()

    def record(self, run: Callable[[], Result]) -> Callable[[], Result]:
        """Record a function; return its replay, which gives the same result tensors every time."""
        stream = _stream(torch.cuda.current_device())
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph, result = self._capture(run)

        def replay() -> Result:
            graph.replay()
            return result

        return replay

    def _capture(self, run: Callable[[], Result]) -> tuple[torch.cuda.CUDAGraph, Result]:
        graph, stream = torch.cuda.CUDAGraph(), _stream(torch.cuda.current_device())
        with torch.cuda.graph(graph, pool=self._pool, stream=stream):
            result = run()
        return graph, result


@cache
def _stream(device: int) -> torch.cuda.Stream:
    """One stream of a GPU for all recordings: cuBLAS keeps 32 MB of workspace for each stream."""
    return torch.cuda.Stream(device)
