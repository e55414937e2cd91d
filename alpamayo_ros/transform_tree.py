"""Transforms between the frames of a vehicle, as TF has them: chains of links, static or moving.

A frame has one parent, as in tf2. Nothing is extrapolated. Knows no messages and no topics.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
import math
from typing import NamedTuple

import numpy as np

from . import geometry
from .data_types import NANOSECONDS

GAP_NS = NANOSECONDS // 5  # a wider one between two transforms of a moving link is not bridged
KEPT_NS = 2 * NANOSECONDS  # of the transforms of a moving link
IDENTITY = (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)

Pose = tuple[geometry.Array, geometry.Array]  # position (3,) m, quaternion (4,) x, y, z, w
Step = tuple[str, str]  # a frame and its parent


class Link(NamedTuple):
    """Pose of a frame in its parent at a stamp: parent_from_child, m and a quaternion x, y, z, w.

    is_static: it holds at all times.
    """

    parent: str
    child: str
    stamp_ns: int
    position_m: tuple[float, ...]
    quaternion_xyzw: tuple[float, ...]
    is_static: bool = False


class NoTransform(ValueError):
    """Why there is no transform; is_late: a transform still to come may give it."""

    def __init__(self, text: str, is_late: bool = False) -> None:
        super().__init__(text)
        self.is_late = is_late


class TransformTree:
    """The links that came so far. static_count: static links among them, repeated ones too.

    The newest of several static links of one pair holds. Of a moving link the last KEPT_NS are
    kept; where its stamps go back by more than GAP_NS, it begins anew.
    """

    def __init__(self) -> None:
        self.static_count = 0
        self._static: dict[str, dict[str, Link]] = {}  # by child, then by parent
        self._moving: dict[str, dict[str, list[Link]]] = {}

    def add(self, link: Link) -> None:
        """Take a link; a moving one without a stamp is left out."""
        if link.is_static:
            self.static_count += 1
            self._static.setdefault(link.child, {})[link.parent] = link
        elif link.stamp_ns > 0:
            self._add_moving(link)

    def find(self, parent: str, child: str, stamp_ns: int | None = None) -> Pose:
        """parent_from_child: position m and quaternion; without a stamp by static links only.

        A moving link is interpolated between two transforms at most GAP_NS apart. Raises
        NoTransform with the link that is missing, a frame with two parents or a ring.
        """
        up, down = self._find_way(parent, child)
        pose = self._compose(up, stamp_ns)
        if not down:
            return pose
        position, quaternion = self._compose(down, stamp_ns)
        inverse = geometry.conjugate(quaternion)
        offset = geometry.rotation_matrix(inverse) @ (pose[0] - position)
        return offset, geometry.multiply(inverse, pose[1])

    def find_moving(self, parent: str, child: str) -> Step:
        """The moving link that is the nearest to the child, on the way to the parent.

        Raises NoTransform as `find` does, and where no link moves.
        """
        up, down = self._find_way(parent, child)
        for frame, above in (*up, *reversed(down)):
            if above not in self._static.get(frame, {}):
                return frame, above
        raise NoTransform(f'all transforms from {child} to {parent} are static')

    def _add_moving(self, link: Link) -> None:
        parents = self._moving.setdefault(link.child, {})
        for other, links in list(parents.items()):
            # a parent that is no longer named is none
            if other != link.parent and links[-1].stamp_ns < link.stamp_ns - KEPT_NS:
                del parents[other]
        links = parents.setdefault(link.parent, [])
        if links and link.stamp_ns < links[-1].stamp_ns - GAP_NS:
            links.clear()
        at = bisect_left(links, link.stamp_ns, key=lambda x: x.stamp_ns)
        if at == len(links) or links[at].stamp_ns != link.stamp_ns:
            links.insert(at, link)
        if links[0].stamp_ns < links[-1].stamp_ns - 2 * KEPT_NS:  # seldom, so that it costs little
            oldest_ns = links[-1].stamp_ns - KEPT_NS
            del links[: bisect_left(links, oldest_ns, key=lambda x: x.stamp_ns) - 1]

    def _find_way(self, parent: str, child: str) -> tuple[list[Step], list[Step]]:
        """Steps up from child and from parent to the frame above both."""
        up = list(self._climb(child, parent))
        above = [child, *(step[1] for step in up)]
        if above[-1] == parent:
            return up, []
        down: list[Step] = []
        for step in self._climb(parent, child):
            if step[0] in above:
                break
            down.append(step)
        end = down[-1][1] if down else parent
        if end not in above:
            text = f'no transforms lead from {child} to {parent}'
            raise NoTransform(f'{text}: {above[-1]} and {end} have no parent', is_late=True)
        return up[: above.index(end)], down

    def _climb(self, frame: str, end: str) -> Iterator[Step]:
        """Steps from a frame up to `end`, or to the frame without a parent."""
        seen = [frame]
        while frame != end and (parent := self._choose_parent(frame, end)):
            if parent in seen:
                ring = ' -> '.join([*seen[seen.index(parent) :], parent])
                raise NoTransform(f'the transforms are a ring: {ring}')
            yield frame, parent
            frame = parent
            seen.append(frame)

    def _choose_parent(self, frame: str, end: str) -> str:
        """The parent of a frame, '' without one; of several the one that was asked for."""
        parents = self._static.get(frame, {}).keys() | self._moving.get(frame, {}).keys()
        if len(parents) > 1 and end not in parents:
            raise NoTransform(f'{frame} has several parents: {", ".join(sorted(parents))}')
        return end if end in parents else next(iter(parents), '')

    def _compose(self, steps: list[Step], stamp_ns: int | None) -> Pose:
        """Pose of the first frame in the last one."""
        position, quaternion = (np.array(x) for x in IDENTITY)
        for step in steps:
            at, turn = self._find_link(*step, stamp_ns)
            position = at + geometry.rotation_matrix(turn) @ position
            quaternion = geometry.multiply(turn, quaternion)
        return position, quaternion

    def _find_link(self, frame: str, parent: str, stamp_ns: int | None) -> Pose:
        """Pose of a frame in its parent."""
        if static := self._static.get(frame, {}).get(parent):
            return _read_pose(static)
        links = self._moving[frame][parent]
        name = f'{frame} in {parent}'
        if stamp_ns is None:
            raise NoTransform(f'the transform of {name} is not static')
        at = bisect_left(links, stamp_ns, key=lambda link: link.stamp_ns)
        if at == len(links):
            late_s = (stamp_ns - links[-1].stamp_ns) / NANOSECONDS
            text = f'the transforms of {name} end {late_s:.3g} s before'
            raise NoTransform(text, is_late=True)
        if links[at].stamp_ns == stamp_ns:
            return _read_pose(links[at])
        if at == 0:
            early_s = (links[0].stamp_ns - stamp_ns) / NANOSECONDS
            raise NoTransform(f'the transforms of {name} begin {early_s:.3g} s later')
        return _interpolate(links[at - 1], links[at], stamp_ns, name)


def _interpolate(before: Link, after: Link, stamp_ns: int, name: str) -> Pose:
    """Pose between two links: a straight line, and slerp."""
    gap_ns = after.stamp_ns - before.stamp_ns
    if gap_ns > GAP_NS:
        text = f'two transforms of {name} are {gap_ns / NANOSECONDS:.3g} s apart'
        raise NoTransform(f'{text}, limit {GAP_NS / NANOSECONDS:g} s')
    (p, q), (p_after, q_after) = _read_pose(before), _read_pose(after)
    part = (stamp_ns - before.stamp_ns) / gap_ns
    turned = geometry.rotation_vector(geometry.multiply(geometry.conjugate(q), q_after))
    return p + part * (p_after - p), geometry.multiply(q, geometry.exponential(part * turned))


def _read_pose(link: Link) -> Pose:
    """The pose of a link, checked where it is used: nobody else's broken link matters."""
    numbers = *link.position_m, *link.quaternion_xyzw
    norm = math.hypot(*link.quaternion_xyzw)
    if not all(map(math.isfinite, numbers)) or abs(norm - 1) > 0.01:
        name = f'the transform of {link.child} in {link.parent}'
        raise NoTransform(
            f'{name} is none: position {link.position_m}, quaternion of norm {norm:g}'
        )
    return np.array(link.position_m), np.array(link.quaternion_xyzw) / norm
