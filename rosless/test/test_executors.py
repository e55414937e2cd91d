"""Executors: tasks, waking, callback groups, exceptions, entities that come and go."""

import threading
import time

import pytest
import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.exceptions import NotInitializedException
from rclpy.executors import (
    ExternalShutdownException,
    MultiThreadedExecutor,
    SingleThreadedExecutor,
)
from rclpy.task import Future
from std_msgs.msg import String


class Spinning:
    """An executor that spins in a thread."""

    def __init__(self, executor):
        self.executor = executor
        self.error = None
        self.thread = threading.Thread(target=self._spin)
        self.thread.start()

    def _spin(self):
        try:
            self.executor.spin()
        except BaseException as error:  # noqa: BLE001 - the test reports it
            self.error = error

    def ended(self) -> bool:
        """Whether spin returned within the limit."""
        self.thread.join(5)
        return not self.thread.is_alive()


def test_a_task_from_another_thread_wakes_the_executor(node):
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinning = Spinning(executor)
    time.sleep(0.1)  # it waits without a limit now
    started = time.monotonic()
    where = []
    done = threading.Event()
    task = executor.create_task(lambda x: where.append(threading.get_ident()) or x, 7)
    task.add_done_callback(lambda _: done.set())
    assert done.wait(5)
    assert task.result() == 7 and where == [spinning.thread.ident]
    assert time.monotonic() - started < 1
    executor.shutdown()
    assert spinning.ended() and spinning.error is None


def test_shutdown_of_the_context_wakes_the_executor(node):
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinning = Spinning(executor)
    time.sleep(0.1)
    rclpy.try_shutdown()
    assert spinning.ended() and isinstance(spinning.error, ExternalShutdownException)


def test_new_entities_wake_the_executor(node):
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinning = Spinning(executor)
    time.sleep(0.1)
    fired = threading.Event()
    node.create_timer(0.01, fired.set)
    assert fired.wait(5)
    executor.shutdown()
    assert spinning.ended()


def test_spin_once_ends_at_its_limit(node):
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    started = time.monotonic()
    executor.spin_once(timeout_sec=0.1)
    assert 0.1 <= time.monotonic() - started < 1


def test_an_exception_of_a_callback_or_a_task_leaves_spin(node, spin_until):
    def fail():
        raise KeyError('broken')

    task = spin_until.executor.create_task(fail)
    with pytest.raises(KeyError, match='broken'):
        spin_until(task.done)
    assert isinstance(task.exception(), KeyError)
    node.create_timer(0.01, fail)
    with pytest.raises(KeyError, match='broken'):
        spin_until(lambda: False)


def test_a_coroutine_goes_on_when_its_future_is_done(spin_until):
    future = Future()
    steps = []

    async def wait(text):
        steps.append('start')
        steps.append(await future)
        return text

    task = spin_until.executor.create_task(wait, 'end')
    spin_until(lambda: steps == ['start'])
    assert not task.done()
    threading.Timer(0.05, future.set_result, ['answer']).start()
    spin_until(task.done)
    assert steps == ['start', 'answer'] and task.result() == 'end'


def test_spin_until_future_complete_ends_with_the_future_or_the_time(node):
    future = Future()
    started = time.monotonic()
    rclpy.spin_until_future_complete(node, future, timeout_sec=0.1)
    assert 0.1 <= time.monotonic() - started < 1
    threading.Timer(0.05, future.set_result, [1]).start()
    rclpy.spin_until_future_complete(node, future, timeout_sec=10)
    assert future.result() == 1


def test_a_cancelled_future_calls_back_and_is_not_done():
    called = []
    future = Future()
    future.add_done_callback(called.append)
    future.cancel()
    assert future.cancelled() and not future.done() and called == [future]


def overlap(node, group) -> bool:
    """Whether two timers of a group were seen running at the same time."""
    running, seen = [], []

    def work():
        running.append(1)
        seen.append(len(running))
        time.sleep(0.05)
        running.pop()

    for _ in range(2):
        node.create_timer(0.01, work, callback_group=group)
    executor = MultiThreadedExecutor(2)
    executor.add_node(node)
    end_s = time.monotonic() + 0.6
    while time.monotonic() < end_s:
        executor.spin_once(timeout_sec=0.05)
    executor.shutdown()
    assert len(seen) >= 4
    return max(seen) > 1


def test_callbacks_of_a_reentrant_group_overlap(node):
    assert overlap(node, ReentrantCallbackGroup())


def test_callbacks_of_a_mutually_exclusive_group_do_not_overlap(node):
    assert not overlap(node, MutuallyExclusiveCallbackGroup())


def test_a_multithreaded_executor_raises_what_a_callback_raised(node):
    def fail():
        raise KeyError('broken')

    node.create_timer(0.01, fail)
    executor = MultiThreadedExecutor(2)
    executor.add_node(node)
    with pytest.raises(KeyError, match='broken'):
        executor.spin()
    executor.shutdown()


def test_entities_can_be_destroyed_while_the_executor_waits(node, topic):
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinning = Spinning(executor)
    publisher = node.create_publisher(String, topic, 10)
    for _ in range(30):
        subscription = node.create_subscription(String, topic, lambda message: None, 10)
        publisher.publish(String(data='x'))
        assert node.destroy_subscription(subscription)
    assert not node.destroy_subscription(subscription)
    executor.shutdown()
    assert spinning.ended() and spinning.error is None


def test_a_removed_node_is_not_served(node, spin_until, topic):
    received = []
    node.create_subscription(String, topic, received.append, 10)
    spin_until.executor.remove_node(node)
    node.create_publisher(String, topic, 10).publish(String(data='x'))
    spin_until.executor.spin_once(timeout_sec=0.1)
    assert received == [] and spin_until.executor.get_nodes() == []
    assert spin_until.executor.add_node(node)
    assert not spin_until.executor.add_node(node)
    spin_until(lambda: received)


def test_one_message_a_turn_for_each_subscription(node, topic):
    order = []
    for name in 'ab':
        node.create_subscription(String, topic, lambda m, n=name: order.append(n + m.data), 10)
    publisher = node.create_publisher(String, topic, 10)
    for text in '12':
        publisher.publish(String(data=text))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    for _ in range(4):
        executor.spin_once(timeout_sec=1)
    assert order == ['a1', 'b1', 'a2', 'b2']


def test_the_context_has_one_beginning_and_one_end():
    with pytest.raises(NotInitializedException):
        rclpy.create_node('early')
    rclpy.init(args=[])
    assert rclpy.ok()
    with pytest.raises(RuntimeError):
        rclpy.init(args=[])
    rclpy.shutdown()
    assert not rclpy.ok()
    with pytest.raises(RuntimeError):
        rclpy.shutdown()
    rclpy.try_shutdown()


def test_shutdown_callbacks_are_called_once():
    called = []
    rclpy.init(args=[])
    context = rclpy.get_default_context()
    context.on_shutdown(lambda: called.append(1))
    rclpy.shutdown()
    context.on_shutdown(lambda: called.append(2))
    assert called == [1, 2]
