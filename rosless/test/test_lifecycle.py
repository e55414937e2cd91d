"""A managed node: its services, its callbacks, and what it tells of its transitions."""

from functools import partialmethod

from lifecycle_msgs.msg import Transition, TransitionEvent
from lifecycle_msgs.srv import ChangeState, GetAvailableStates, GetAvailableTransitions, GetState
import pytest
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn


class Managed(LifecycleNode):
    """Answers as it is told, and keeps where it came from."""

    def __init__(self):
        super().__init__('managed')
        self.answers, self.called = {}, []

    def _answer(self, name, state):
        self.called.append((name, state.label))
        answer = self.answers.get(name, TransitionCallbackReturn.SUCCESS)
        if isinstance(answer, Exception):
            raise answer
        return answer


for name in ('configure', 'activate', 'deactivate', 'cleanup', 'shutdown', 'error'):
    setattr(Managed, f'on_{name}', partialmethod(Managed._answer, name))


@pytest.fixture
def managed(node, spin_until):
    made = Managed()
    spin_until.executor.add_node(made)
    yield made
    made.destroy_node()


@pytest.fixture
def ask(managed, call):
    """Return a function: a transition by label or number to success and the state after it."""

    def change(transition):
        key = 'label' if isinstance(transition, str) else 'id'
        done = call(
            ChangeState, '/managed/change_state', transition=Transition(**{key: transition})
        )
        return done.success, call(GetState, '/managed/get_state').current_state.label

    return change


def test_a_node_goes_through_its_states_and_tells_every_step(node, managed, ask, spin_until):
    events = []
    node.create_subscription(TransitionEvent, '/managed/transition_event', events.append, 50)
    spin_until(lambda: node.count_subscribers('/managed/transition_event') == 1)
    steps = ['configure', 'activate', 'deactivate', 'cleanup', 'configure', 'shutdown']
    states = ['inactive', 'active', 'inactive', 'unconfigured', 'inactive', 'finalized']
    assert [ask(step) for step in steps] == [(True, state) for state in states]
    assert [name for name, _ in managed.called] == steps
    assert [label for _, label in managed.called] == ['unconfigured', *states[:-1]]
    spin_until(lambda: len(events) == 12)
    told = [(event.start_state.label, event.goal_state.label) for event in events[:4]]
    assert told == [
        ('unconfigured', 'configuring'),
        ('configuring', 'inactive'),
        ('inactive', 'activating'),
        ('activating', 'active'),
    ]


@pytest.mark.parametrize(
    'answer, state',
    [
        (TransitionCallbackReturn.FAILURE, 'inactive'),
        (TransitionCallbackReturn.ERROR, 'unconfigured'),
        (KeyError('lost'), 'unconfigured'),
    ],
)
def test_a_callback_decides_where_a_transition_ends(managed, ask, answer, state):
    managed.answers = {'activate': answer}
    assert ask(Transition.TRANSITION_CONFIGURE) == (True, 'inactive')
    assert ask(Transition.TRANSITION_ACTIVATE) == (False, state)


def test_an_error_in_the_processing_of_an_error_is_the_end(managed, ask):
    managed.answers = dict.fromkeys(('configure', 'error'), TransitionCallbackReturn.ERROR)
    assert ask('configure') == (False, 'finalized')


def test_a_label_that_the_state_does_not_have_is_refused_and_a_number_raises(managed, ask):
    assert ask('activate') == (False, 'unconfigured')
    with pytest.raises(RuntimeError):
        managed.trigger_activate()
    assert managed.trigger_configure() is TransitionCallbackReturn.SUCCESS


def test_states_and_transitions_can_be_asked_for(managed, ask, call):
    states = call(GetAvailableStates, '/managed/get_available_states').available_states
    assert {state.id: state.label for state in states}[13] == 'activating' and len(states) == 11

    def transitions(name):
        found = call(GetAvailableTransitions, f'/managed/{name}').available_transitions
        return [(x.transition.id, x.transition.label, x.goal_state.label) for x in found]

    ask('configure')
    assert transitions('get_available_transitions') == [
        (2, 'cleanup', 'cleaningup'),
        (3, 'activate', 'activating'),
        (6, 'shutdown', 'shuttingdown'),
    ]
    assert len(transitions('get_transition_graph')) == 25
