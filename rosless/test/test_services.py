"""Services and clients between processes."""

import threading

import pytest
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import SetBool, Trigger


def test_a_service_of_another_process_answers(program, call):
    program('robot', '--ros-args', '-r', '__ns:=/fleet').line('ready')
    answer = call(SetBool, '/fleet/robot/switch', data=True)
    assert (answer.success, answer.message) == (True, 'on')
    assert call(SetBool, '/fleet/robot/switch', data=False).message == 'off'
    assert call(Trigger, '/fleet/robot/whoami').message == '/fleet/robot'


def test_every_client_gets_its_own_answers(program):
    program('robot').line('ready')
    callers = [program('caller', CALLS='20') for _ in range(2)]
    for caller in callers:
        assert caller.process.wait(20) == 0
        assert caller.rest().count('answer on') == 20


def test_a_service_is_ready_when_it_is_there(program, node):
    client = node.create_client(Trigger, '/robot/whoami')
    assert not client.service_is_ready()
    assert not client.wait_for_service(timeout_sec=0.05)
    program('robot').line('ready')
    assert client.wait_for_service(timeout_sec=10)


def test_answers_belong_to_their_requests(node, spin_until):
    def tell(request, response):
        response.message = str(request.data)
        return response

    node.create_service(SetBool, 'tell', tell)
    client = node.create_client(SetBool, 'tell')
    assert client.wait_for_service(5)
    futures = [client.call_async(SetBool.Request(data=i % 2 == 0)) for i in range(6)]
    spin_until(lambda: all(future.done() for future in futures))
    assert [future.result().message for future in futures] == ['True', 'False'] * 3


def test_call_waits_while_another_thread_spins(node):
    def answer(request, response):
        response.success = True
        return response

    node.create_service(Trigger, 'answer', answer)
    client = node.create_client(Trigger, 'answer')
    assert client.wait_for_service(5)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    assert client.call(Trigger.Request(), timeout_sec=5).success
    executor.shutdown()
    thread.join(5)
    assert client.call(Trigger.Request(), timeout_sec=0.05) is None  # nobody spins


def test_a_coroutine_can_serve_and_call(node, spin_until):
    node.create_service(Trigger, 'inner', lambda request, response: Trigger.Response(message='in'))
    client = node.create_client(Trigger, 'inner', callback_group=ReentrantCallbackGroup())

    async def outer(request, response):
        inner = await client.call_async(Trigger.Request())
        response.message = f'out of {inner.message}'
        return response

    group = MutuallyExclusiveCallbackGroup()
    node.create_service(Trigger, 'outer', outer, callback_group=group)
    caller = node.create_client(Trigger, 'outer')
    assert caller.wait_for_service(5) and client.wait_for_service(5)
    future = caller.call_async(Trigger.Request())
    spin_until(future.done)
    assert future.result().message == 'out of in'


def test_a_request_of_another_type_is_refused(node):
    client = node.create_client(Trigger, 'answer')
    with pytest.raises(TypeError):
        client.call_async(SetBool.Request())


def test_a_service_that_returns_no_response_is_an_error(node, spin_until):
    node.create_service(Trigger, 'wrong', lambda request, response: None)
    client = node.create_client(Trigger, 'wrong')
    assert client.wait_for_service(5)
    client.call_async(Trigger.Request())
    with pytest.raises(TypeError):
        spin_until(lambda: False)
