"""Poses of a frame of TF in another one, through a chain such as map -> odom -> base_link.

They have the stamps of the moving link nearest to the vehicle. Each waits until the other links
are known at its stamp, so that the order of arrival changes nothing. Knows no rig.
"""

from __future__ import annotations

from bisect import insort
from typing import Any, NamedTuple

from ...transform_tree import GAP_NS, NoTransform, Pose, TransformTree
from ..inputs import to_links


class StampedPose(NamedTuple):
    """A pose of the child frame in the parent frame, and its stamp."""

    stamp_ns: int
    pose: Pose


class TransformChain:
    """The chain from `child` up to `parent` in a tree that its owner gives the static links."""

    def __init__(self, tree: TransformTree, parent: str, child: str) -> None:
        self._tree, self._parent, self._child = tree, parent, child
        self._waiting: list[int] = []  # stamps

    def read(self, message: Any) -> tuple[int | None, list[StampedPose]]:
        """Newest stamp of the chain's own link in a TFMessage, and the poses that are ready now.

        No stamp: the message is about other links. Raises ValueError while the chain has a gap,
        and where a pose has waited GAP_NS in vain.
        """
        links = to_links(message)
        for link in links:
            self._tree.add(link)
        own = self._tree.find_moving(self._parent, self._child)
        stamps = [link.stamp_ns for link in links if (link.child, link.parent) == own]
        if any(stamp_ns <= 0 for stamp_ns in stamps):
            raise ValueError('header stamp is zero')
        for stamp_ns in stamps:
            if self._waiting and stamp_ns < self._waiting[-1] - GAP_NS:
                self._waiting.clear()  # the clock has jumped back
            insort(self._waiting, stamp_ns)
        return max(stamps, default=None), self._release()

    def _release(self) -> list[StampedPose]:
        poses, fault = [], ''
        while self._waiting:
            stamp_ns = self._waiting[0]
            try:
                poses.append(
                    StampedPose(stamp_ns, self._tree.find(self._parent, self._child, stamp_ns))
                )
            except NoTransform as error:
                if error.is_late and self._waiting[-1] - stamp_ns <= GAP_NS:
                    break
                fault = str(error)
            del self._waiting[0]
        if fault and not poses:
            raise ValueError(fault)
        return poses
