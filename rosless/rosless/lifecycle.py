"""rclpy.lifecycle: a managed node, whose states others change by the transitions of ROS 2.

The services ~/change_state, ~/get_state, ~/get_available_states, ~/get_available_transitions and
~/get_transition_graph, and the topic ~/transition_event. As in rclpy, an exception in a callback
is an error of the transition, and a transition that the state does not have raises RCLError.
"""

from collections.abc import Iterable
import enum
from functools import partialmethod
from typing import NamedTuple

from rosless.messages import get_message_class, get_service_class
from rosless.node import Node
from rosless.rcl_error import RCLError

STATES = {
    0: 'unknown',
    1: 'unconfigured',
    2: 'inactive',
    3: 'active',
    4: 'finalized',
    10: 'configuring',
    11: 'cleaningup',
    12: 'shuttingdown',
    13: 'activating',
    14: 'deactivating',
    15: 'errorprocessing',
}


class TransitionCallbackReturn(enum.Enum):
    """What a callback of a transition answers."""

    SUCCESS = 'transition_success'
    FAILURE = 'transition_failure'
    ERROR = 'transition_error'

    def to_label(self) -> str:
        """Label of the transition that follows."""
        return self.value


SUCCESS, FAILURE, ERROR = (answer.value for answer in TransitionCallbackReturn)


class LifecycleState(NamedTuple):
    """State as a callback gets it: the one that it comes from."""

    label: str
    state_id: int


class Transition(NamedTuple):
    """Number and label of a transition, and the states that it leads from and to."""

    id: int
    label: str
    start: int
    goal: int


TRANSITIONS = tuple(
    Transition(*row)
    for row in (
        (1, 'configure', 1, 10),
        (2, 'cleanup', 2, 11),
        (3, 'activate', 2, 13),
        (4, 'deactivate', 3, 14),
        (5, 'shutdown', 1, 12),
        (6, 'shutdown', 2, 12),
        (7, 'shutdown', 3, 12),
        (10, SUCCESS, 10, 2),
        (11, FAILURE, 10, 1),
        (12, ERROR, 10, 15),
        (20, SUCCESS, 11, 1),
        (21, FAILURE, 11, 2),
        (22, ERROR, 11, 15),
        (30, SUCCESS, 13, 3),
        (31, FAILURE, 13, 2),
        (32, ERROR, 13, 15),
        (40, SUCCESS, 14, 2),
        (41, FAILURE, 14, 3),
        (42, ERROR, 14, 15),
        (50, SUCCESS, 12, 4),
        (51, FAILURE, 12, 4),
        (52, ERROR, 12, 15),
        (60, SUCCESS, 15, 1),
        (61, FAILURE, 15, 4),
        (62, ERROR, 15, 4),
    )
)


class LifecycleNode(Node):
    """A managed node; derived classes override the callbacks `on_*`."""

    def __init__(self, node_name: str, *, enable_communication_interface: bool = True, **options):
        super().__init__(node_name, **options)
        self.__state = 1
        self.__events = None
        if enable_communication_interface:
            self.__create_interface()

    def __create_interface(self) -> None:
        self.__events = self.create_publisher(
            get_message_class('lifecycle_msgs/msg/TransitionEvent'), '~/transition_event', 10
        )
        for name, kind, callback in (
            ('change_state', 'ChangeState', self.__on_change_state),
            ('get_state', 'GetState', self.__on_get_state),
            ('get_available_states', 'GetAvailableStates', self.__on_get_states),
            ('get_available_transitions', 'GetAvailableTransitions', self.__on_get_transitions),
            ('get_transition_graph', 'GetAvailableTransitions', self.__on_get_graph),
        ):
            self.create_service(
                get_service_class(f'lifecycle_msgs/srv/{kind}'), f'~/{name}', callback
            )

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Answer that the transition succeeded, as each `on_*` does that is not overridden."""
        return TransitionCallbackReturn.SUCCESS

    on_cleanup = on_activate = on_deactivate = on_shutdown = on_error = on_configure

    def __change(self, wanted: str | int) -> TransitionCallbackReturn:
        """Do the transition of a label or number, and those that its callback brings about."""
        before = LifecycleState(STATES[self.__state], self.__state)
        self.__follow(wanted)
        answer = self.__call_back(before)
        self.__follow(answer.to_label())
        if answer is TransitionCallbackReturn.ERROR:
            self.__follow(self.__call_back(before).to_label())
        return answer

    # each does its transition and returns what the callback answered
    trigger_configure = partialmethod(__change, 'configure')
    trigger_cleanup = partialmethod(__change, 'cleanup')
    trigger_activate = partialmethod(__change, 'activate')
    trigger_deactivate = partialmethod(__change, 'deactivate')
    trigger_shutdown = partialmethod(__change, 'shutdown')

    def __call_back(self, before: LifecycleState) -> TransitionCallbackReturn:
        callbacks = {
            10: self.on_configure,
            11: self.on_cleanup,
            12: self.on_shutdown,
            13: self.on_activate,
            14: self.on_deactivate,
            15: self.on_error,
        }
        try:
            return callbacks[self.__state](before)
        except Exception:  # noqa: BLE001 - as rclpy, which says nothing either
            return TransitionCallbackReturn.ERROR

    def __follow(self, wanted: str | int) -> None:
        for transition in self.__available:
            if wanted in (transition.id, transition.label):
                self.__state = transition.goal
                self.__tell(transition)
                return
        raise RCLError(f'{wanted} is no transition of the state {STATES[self.__state]}')

    @property
    def __available(self) -> Iterable[Transition]:
        return (row for row in TRANSITIONS if row.start == self.__state)

    def __tell(self, transition: Transition) -> None:
        if self.__events is None:
            return
        described = _describe(transition)
        self.__events.publish(
            get_message_class('lifecycle_msgs/msg/TransitionEvent')(
                timestamp=self.get_clock().now().nanoseconds,
                transition=described.transition,
                start_state=described.start_state,
                goal_state=described.goal_state,
            )
        )

    def __on_change_state(self, request, response):
        response.success = False
        asked = request.transition
        if asked.label and asked.label not in (row.label for row in self.__available):
            return response
        answer = self.__change(asked.label or asked.id)
        response.success = answer is TransitionCallbackReturn.SUCCESS
        return response

    def __on_get_state(self, request, response):
        response.current_state = _make_state(self.__state)
        return response

    def __on_get_states(self, request, response):
        response.available_states = [_make_state(number) for number in STATES]
        return response

    def __on_get_transitions(self, request, response):
        response.available_transitions = [_describe(row) for row in self.__available]
        return response

    def __on_get_graph(self, request, response):
        response.available_transitions = [_describe(row) for row in TRANSITIONS]
        return response


def _make_state(number: int):
    return get_message_class('lifecycle_msgs/msg/State')(id=number, label=STATES[number])


def _describe(transition: Transition):
    """TransitionDescription of a transition."""
    made = get_message_class('lifecycle_msgs/msg/Transition')(
        id=transition.id, label=transition.label
    )
    return get_message_class('lifecycle_msgs/msg/TransitionDescription')(
        transition=made,
        start_state=_make_state(transition.start),
        goal_state=_make_state(transition.goal),
    )
