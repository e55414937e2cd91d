"""Transitions of the managed node, in this process, around a pipeline that keeps what is asked."""

import sys

import pytest
import wire  # noqa: F401 - makes rclpy importable

import rclpy  # isort: skip
from rclpy.executors import SingleThreadedExecutor  # isort: skip
from rclpy.lifecycle import TransitionCallbackReturn  # isort: skip
from rclpy.signals import SignalHandlerOptions  # isort: skip

from alpamayo_ros.ros.lifecycle import ManagedNode
from alpamayo_ros.ros.node import AlpamayoNode

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class Pipeline:
    """The states of a pipeline; `done` is what was asked of it."""

    def __init__(self):
        self.model, self.is_active, self.done = 'unloaded', False, []

    @property
    def state(self):
        """As a pipeline's."""
        return self.model if self.model != 'ready' else ('inactive', 'active')[self.is_active]

    def load(self):
        """Begin to load."""
        self.done.append('load')
        self.model = 'loading'

    def unload(self):
        """Free the model; a failure stays."""
        self.done.append('unload')
        self.model = 'failed' if self.model == 'failed' else 'unloaded'

    def activate(self):
        """Serve."""
        self.done.append('activate')
        self.is_active = True

    def deactivate(self):
        """Pause."""
        self.done.append('deactivate')
        self.is_active = False


@pytest.fixture
def node():
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    made = ManagedNode('managed')
    made.pipeline = Pipeline()
    yield made
    made.destroy_node()
    rclpy.shutdown()


def test_each_transition_does_its_part_and_the_lifecycle_follows(node):
    steps = (
        (node.trigger_configure, 'inactive', ['load']),
        (node.trigger_activate, 'active', ['activate']),
        (node.trigger_deactivate, 'inactive', ['deactivate']),
        (node.trigger_cleanup, 'unconfigured', ['unload']),
        (node.trigger_configure, 'inactive', ['load']),
        (node.trigger_activate, 'active', ['activate']),
        (node.trigger_shutdown, 'finalized', ['deactivate', 'unload']),
    )
    for trigger, lifecycle, done in steps:
        node.pipeline.done.clear()
        assert trigger() is SUCCESS
        assert (node.lifecycle, node.pipeline.done) == (lifecycle, done)
    node.load()  # nothing leaves this state
    assert node.pipeline.state == 'unloaded'


def test_a_model_that_is_being_loaded_can_be_activated_and_a_failed_one_cannot(node):
    node.trigger_configure()
    assert node.pipeline.state == 'loading'
    assert node.trigger_activate() is SUCCESS
    node.trigger_deactivate()
    node.pipeline.model = 'failed'
    assert node.trigger_activate() is FAILURE
    assert (node.lifecycle, node.pipeline.is_active) == ('inactive', False)


@pytest.mark.parametrize('is_active', [True, False])
def test_a_failed_model_takes_the_node_back_to_unconfigured_and_a_load_serves_again(
    node, is_active
):
    node.trigger_configure()
    if is_active:
        node.trigger_activate()
    node.leave_failed_model()
    assert node.lifecycle == ('active' if is_active else 'inactive')  # nothing has failed yet
    node.pipeline.model = 'failed'
    node.leave_failed_model()
    assert (node.lifecycle, node.pipeline.state) == ('unconfigured', 'failed')
    node.pipeline.done.clear()
    node.leave_failed_model()  # once is enough
    assert node.pipeline.done == []
    node.load()
    assert (node.lifecycle, node.pipeline.done) == ('active', ['load', 'activate'])


def test_a_load_is_all_transitions_and_a_paused_node_stays_paused(node):
    node.load()
    node.load()  # is the same load
    assert (node.lifecycle, node.pipeline.done) == ('active', ['load', 'activate'])
    node.pipeline.model = 'ready'
    node.pipeline.done.clear()
    node.load()
    assert node.pipeline.done == ['deactivate', 'unload', 'load', 'activate']
    node.pipeline.model = 'ready'
    assert node.enable(False)
    node.pipeline.done.clear()
    node.load()
    assert (node.lifecycle, node.pipeline.done) == ('inactive', ['unload', 'load'])


def test_enable_is_activate_and_deactivate_and_needs_a_model(node):
    assert not node.enable(True) and not node.enable(False)
    node.trigger_configure()
    assert node.enable(False) and node.pipeline.done == ['load']
    assert node.enable(True) and node.enable(True)
    assert node.enable(False)
    assert node.pipeline.done == ['load', 'activate', 'deactivate']


def test_a_request_for_an_impossible_transition_is_answered(node):
    (service,) = (row for row in node.services if row.srv_name.endswith('/change_state'))
    request, response = service.srv_type.Request(), service.srv_type.Response(success=True)
    request.transition.id = 3  # activate
    assert service.callback(request, response).success is False
    assert node.lifecycle == 'unconfigured'


def test_an_exception_in_a_transition_is_told_where_rclpy_would_swallow_it(node, monkeypatch):
    told = []
    monkeypatch.setattr(sys, 'excepthook', lambda *error: told.append(error[0]))
    monkeypatch.setattr(node.pipeline, 'load', lambda: {}['weights'])
    assert node.trigger_configure() is TransitionCallbackReturn.ERROR
    assert told == [KeyError]


def test_a_namespace_moves_the_inputs_that_the_rig_names_without_a_slash():
    values = ('rig:=r1', 'engine:=constant_velocity')
    given = [word for value in values for word in ('-p', value)]
    rclpy.init(
        args=['--ros-args', *given, '-r', '__ns:=/fleet'],
        signal_handler_options=SignalHandlerOptions.NO,
    )
    node = AlpamayoNode(SingleThreadedExecutor())
    topics = {name: monitor.topic for name, monitor in node.pipeline.monitors.items()}
    node.destroy_node()
    rclpy.shutdown()
    assert topics['odometry'] == '/fleet/odometry'
    assert topics['front_tele'] == '/fleet/camera/front_tele/image_raw/compressed'
