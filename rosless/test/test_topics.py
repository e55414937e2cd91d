"""Publishers and subscriptions between processes."""

import time

import numpy as np
import pytest
import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.duration import Duration
from rclpy.exceptions import InvalidHandle
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String


def test_messages_go_both_ways_between_processes(program, node, spin_until):
    program('robot').line('ready')
    heard = []
    echo = node.create_subscription(String, '/echo', lambda m: heard.append(m.data), 10)
    publisher = node.create_publisher(String, '/say', 10)
    spin_until(lambda: publisher.get_subscription_count() and echo.get_publisher_count())
    for text in ('one', 'zwei', 'три'):
        publisher.publish(String(data=text))
    spin_until(lambda: len(heard) == 3)
    assert heard == ['none: one', 'none: zwei', 'none: три']


def test_remaps_namespace_and_parameter_file_reach_the_node(program, node, spin_until, tmp_path):
    file = tmp_path / 'p.yaml'
    file.write_text('/fleet/r2: {ros__parameters: {label: filed}}')
    arguments = f'-r __ns:=/fleet -r __node:=r2 -r say:=/words --params-file {file}'
    program('robot', '--ros-args', *arguments.split()).line('ready')
    heard = []
    echo = node.create_subscription(String, '/fleet/echo', lambda m: heard.append(m.data), 10)
    publisher = node.create_publisher(String, '/words', 10)
    spin_until(lambda: publisher.get_subscription_count() and echo.get_publisher_count())
    publisher.publish(String(data='hello'))
    spin_until(lambda: heard)
    assert heard == ['filed: hello']
    assert ('r2', '/fleet') in node.get_node_names_and_namespaces()


def test_an_image_arrives_as_a_numpy_view(program, node, spin_until):
    program('camera').line('ready')
    images = []
    node.create_subscription(CompressedImage, '/image', images.append, 5)
    spin_until(lambda: images)
    data = images[0].data
    assert isinstance(data, np.ndarray) and data.dtype == np.uint8 and not data.flags.owndata
    assert data.tobytes() == bytes(range(250)) * 1000
    assert images[0].header.stamp.sec == 12 and images[0].format == 'jpeg'


def test_raw_subscriptions_and_publishers_carry_cdr(program, node, spin_until, topic):
    program('camera').line('ready')
    samples = []
    node.create_subscription(CompressedImage, '/image', samples.append, 5, raw=True)
    spin_until(lambda: samples)
    assert isinstance(samples[0], bytes) and samples[0][:4] == b'\x00\x01\x00\x00'
    assert deserialize_message(samples[0], CompressedImage).format == 'jpeg'
    received = []
    node.create_subscription(String, topic, received.append, 5)
    node.create_publisher(String, topic, 5).publish(serialize_message(String(data='cdr')))
    spin_until(lambda: received)
    assert received == [String(data='cdr')]


class Never(MutuallyExclusiveCallbackGroup):
    """A group whose callbacks may not start."""

    def can_execute(self, entity):
        """Never."""
        return False


def test_messages_that_no_callback_may_take_can_be_fetched(node, spin_until, topic):
    heard = []
    polled = node.create_subscription(
        String, topic, heard.append, 10, callback_group=Never(), raw=True
    )
    other = node.create_subscription(String, topic, heard.append, 10)
    publisher = node.create_publisher(String, topic, 10)
    spin_until(lambda: publisher.get_subscription_count() == 2)
    for text in ('one', 'two'):
        publisher.publish(String(data=text))
    spin_until(lambda: len(heard) == 2)
    with polled.handle as handle:
        taken = [handle.take_message(String, True) for _ in range(3)]
    assert [deserialize_message(data, String).data for data, _ in taken[:2]] == ['one', 'two']
    assert taken[2] is None
    assert [m.data for m in heard] == ['one', 'two']
    assert abs(taken[0][1]['source_timestamp'] - time.time_ns()) < 60e9
    assert other.handle.take_message(String, False) is None


def test_a_callback_of_two_arguments_gets_the_stamp_of_the_sample(node, spin_until, topic):
    received = []
    node.create_subscription(String, topic, lambda m, info: received.append((m, info)), 5)
    before_ns = node.get_clock().now().nanoseconds
    node.create_publisher(String, topic, 5).publish(String(data='x'))
    spin_until(lambda: received)
    assert 0 <= received[0][1]['source_timestamp'] - before_ns < 10**9


def test_a_large_message_arrives_whole(node, spin_until, topic):
    received = []
    node.create_subscription(Image, topic, received.append, 1)
    image = Image(height=1080, width=1920, encoding='bgr8', step=5760)
    image.data = np.arange(1080 * 5760, dtype=np.uint32).astype(np.uint8)
    node.create_publisher(Image, topic, 1).publish(image)
    spin_until(lambda: received)
    assert received[0] == image


def test_the_depth_bounds_what_waits(node, spin_until, topic):
    received = []
    node.create_subscription(String, topic, lambda m: received.append(m.data), 2)
    publisher = node.create_publisher(String, topic, 10)
    for i in range(6):
        publisher.publish(String(data=str(i)))
    spin_until(lambda: '5' in received)
    assert received == ['4', '5']


def test_what_was_published_is_acknowledged(node, topic):
    publisher = node.create_publisher(String, topic, 10)
    publisher.publish(String(data='x'))
    assert publisher.wait_for_all_acked(Duration(seconds=1))


def test_only_messages_of_the_type_can_be_published(node, topic):
    publisher = node.create_publisher(String, topic, 10)
    with pytest.raises(TypeError):
        publisher.publish('text')
    with pytest.raises(RuntimeError, match='Failed to publish'):
        publisher.publish(b'\x00\x01\x00\x00\xff')


def test_a_destroyed_publisher_and_an_ended_context_do_not_publish(node, topic):
    destroyed = node.create_publisher(String, topic, 10)
    assert node.destroy_publisher(destroyed)
    with pytest.raises(InvalidHandle):
        destroyed.publish(String())
    publisher = node.create_publisher(String, topic, 10)
    rclpy.shutdown()
    with pytest.raises(RuntimeError, match='context is invalid'):
        publisher.publish(String())
