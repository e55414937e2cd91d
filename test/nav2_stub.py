"""Nav2's controller server at the boundary of rclpy.action, which rosless has not.

It keeps to what nav2_util's SimpleActionServer does with goals of FollowPath: a new goal waits
until the controller's loop takes it and aborts the one before; a cancellation counts for the
newest goal and is refused for one that has ended; every accepted goal gets one result.
"""

from types import SimpleNamespace

import wire  # noqa: F401 - makes rclpy importable

# isort: split
from rclpy.clock import Clock, ClockType
from rclpy.task import Future

LOOP_S = 0.02
ACCEPTED, SUCCEEDED, CANCELED, ABORTED = 1, 4, 5, 6  # of action_msgs/GoalStatus
FIELDS = {
    'humble': ('path', 'controller_id', 'goal_checker_id'),
    'jazzy': ('path', 'controller_id', 'goal_checker_id', 'progress_checker_id'),
}


def make_action(distribution):
    """The class FollowPath, whose goals refuse fields that the distribution has not."""

    def make_goal(**fields):
        assert set(fields) <= set(FIELDS[distribution]), f'invalid arguments: {fields}'
        return SimpleNamespace(**(dict.fromkeys(FIELDS[distribution], '') | fields))

    return SimpleNamespace(Goal=make_goal)


class Handle:
    """A goal as server and client see it; what the client asks for is answered in the loop."""

    def __init__(self, server, goal, accepted):
        self.goal, self.accepted, self.status = goal, accepted, ACCEPTED if accepted else 0
        self.is_canceling = False
        self._server, self._ended = server, Future()

    @property
    def is_active(self):
        """Whether it has no result yet."""
        return self.status == ACCEPTED

    def cancel_goal_async(self):
        """Future of a CancelGoal response."""
        return self._server.later(self._cancel)

    def get_result_async(self):
        """Future of status and result."""
        return self._ended

    def end(self, status, error_code=0):
        """Give the goal its result, if it has none."""
        if self.is_active:
            self.status = status
            result = SimpleNamespace(error_code=error_code)
            self._ended.set_result(SimpleNamespace(status=status, result=result))

    def _cancel(self):
        self.is_canceling = self.is_active
        return SimpleNamespace(goals_canceling=[self] if self.is_active else [])


class ControllerServer:
    """The server. goals: handles in the order of their arrival; current: what is driven."""

    def __init__(self):
        self.goals, self.current, self.pending = [], None, None
        self.is_ready = self.accepts = True
        self.holds_answers = False
        self._calls = []

    def make_client(self, node, kind, name):
        """Stand in for ActionClient; the server lives on the node's thread."""
        assert name == 'follow_path'
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(LOOP_S, self._loop, clock=steady)
        return SimpleNamespace(
            server_is_ready=lambda: self.is_ready,
            send_goal_async=lambda goal: self.later(lambda: self._accept(goal)),
        )

    @property
    def paths(self):
        """Paths of all goals."""
        return [handle.goal.path for handle in self.goals]

    def later(self, work):
        """Future of what a function returns in the loop."""
        future = Future()
        self._calls.append((work, future))
        return future

    def fail(self, error_code):
        """Let the controller give up what it drives."""
        self.later(lambda: self.current.end(ABORTED, error_code))

    def finish(self):
        """Let the controller reach the end of what it drives."""
        self.later(lambda: self.current.end(SUCCEEDED))

    def _accept(self, goal):
        handle = Handle(self, goal, self.accepts)
        self.goals.append(handle)
        if handle.accepted:
            if self.pending is not None:
                self.pending.end(ABORTED)
            self.pending = handle
        return handle

    def _loop(self):
        calls = [] if self.holds_answers else self._calls[:]
        del self._calls[: len(calls)]
        for work, future in calls:
            future.set_result(work())
        newest = self.pending or self.current
        if newest is not None and newest.is_canceling:
            for handle in filter(None, (self.current, self.pending)):
                handle.end(CANCELED if handle.is_canceling else ABORTED)
            self.pending = None
        elif self.pending is not None:
            if self.current is not None:
                self.current.end(ABORTED)
            self.current, self.pending = self.pending, None
