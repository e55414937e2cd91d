"""Where the vehicle is to go: keeps the newest route text or route, and gives a context its text.

A text holds for a while after it came; a route holds until another one comes, and its text is made
at every t0. The times are those of arrival, on any one clock. Knows no ROS.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import geometry
from ..data_types import NANOSECONDS, Context, EgoPose, Navigation, Rejection
from .route_text import RouteText, describe_route

ON_MISSING_NAVIGATION = ('ignore', 'reject')
MAX_AGE_S = 10.0


class NavigationInput:
    """Texts and routes as they come; the newer of both counts. An empty one takes it away.

    max_age_s: of a text. on_missing: 'ignore' infers without a text and says so in the checks,
    once there has been one; 'reject' infers nothing without one.
    """

    def __init__(self, max_age_s: float = MAX_AGE_S, on_missing: str = 'ignore') -> None:
        self.max_age_s, self.on_missing = max_age_s, on_missing
        self._text: Navigation | None = None
        self._came_ns = 0
        self._route: NDArray[np.float64] | None = None
        self._frame_id = ''
        self._missing = ''  # why there is neither

    def add_text(self, text: str, now_ns: int) -> None:
        """Take a text; ValueError for one that cannot stand in a prompt.

        now_ns is 0 while a simulated clock has not begun: its age counts from the first t0 on.
        """
        self._text = Navigation(text) if text else None
        self._came_ns, self._route = now_ns, None
        self._missing = 'the route text is empty'

    def add_route(self, points_m: ArrayLike, frame_id: str) -> None:
        """Take a route of points (N, 2) in a frame."""
        points = np.asarray(points_m, np.float64).reshape(-1, 2)
        self._route, self._frame_id = (points if len(points) else None), frame_id.lstrip('/')
        self._text, self._missing = None, 'the route is empty'

    def forget_text(self) -> None:
        """Forget a text, after a jump of the clock that its age is measured on."""
        if self._text is not None:
            self._text, self._missing = None, 'the route text is from before a jump of the clock'

    def apply(self, context: Context, now_ns: int) -> Context | Rejection:
        """The context with its text; a Rejection where there is none and there must be one."""
        text, age_s, reason = self._find(context.odom_from_t0, now_ns)
        if text:
            return replace(context, navigation=Navigation(text, age_s))
        if self.on_missing == 'reject':
            detail = reason or 'no route text and no route has come'
            return Rejection(context.t0_ns, 'no_navigation', detail)
        checks = ('navigation_missing',) if reason else ()
        return replace(context, checks=(*context.checks, *checks))

    def _find(self, pose: EgoPose, now_ns: int) -> tuple[str, float, str]:
        """Text, its age and the reason where there is none; '' for each that does not apply."""
        if self._route is not None:
            found = self._describe(pose)
            return found.text, 0.0, found.reason
        if self._text is None:
            return '', 0.0, self._missing
        self._came_ns = self._came_ns or now_ns
        age_s = max(now_ns - self._came_ns, 0) / NANOSECONDS
        if age_s > self.max_age_s:
            return '', 0.0, f'the route text is {age_s:.1f} s old, limit {self.max_age_s:g} s'
        return self._text.text, age_s, ''

    def _describe(self, pose: EgoPose) -> RouteText:
        assert self._route is not None
        if self._frame_id != pose.frame_id:
            text = f'the route is in {self._frame_id!r}, the odometry in {pose.frame_id!r}'
            return RouteText('', text)
        yaw = geometry.yaw(geometry.rotation_matrix(pose.quaternion_xyzw))
        return describe_route(self._route, pose.position_m[:2], float(yaw))
