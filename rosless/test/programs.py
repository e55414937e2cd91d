"""Programs that tests start in processes of their own: `python -m rosless programs:NAME`."""

import os
import signal
import sys
import time

from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
import rclpy
from rclpy.executors import (
    ExternalShutdownException,
    MultiThreadedExecutor,
    SingleThreadedExecutor,
)
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger


def run(node: Node) -> None:
    """Spin until a signal and end as a node should."""
    executor = SingleThreadedExecutor()  # rclpy makes none after a signal
    try:
        print('ready', flush=True)  # a signal may come as soon as this is read
        rclpy.spin(node, executor)
    except KeyboardInterrupt:
        print(f'interrupted ok={rclpy.ok()}')
    except (ExternalShutdownException, RuntimeError):
        # rclpy raises a RuntimeError when SIGTERM comes between two of its waits
        if rclpy.ok():
            raise
        print(f'terminated ok={rclpy.ok()}')
    else:  # the context ended while a callback ran, and not during a wait
        print(f'terminated ok={rclpy.ok()}')
    node.destroy_node()
    rclpy.try_shutdown()


class Robot(Node):
    """A node with a bit of everything."""

    def __init__(self, **options):
        super().__init__('robot', **options)
        limits = FloatingPointRange(from_value=1.0, to_value=5.0)
        self.declare_parameter('gain', 2.0, ParameterDescriptor(floating_point_range=[limits]))
        self.declare_parameter('serial', 'A1', ParameterDescriptor(read_only=True))
        self.declare_parameter('label', 'none')
        self.declare_parameter('nested.count', 3)
        self.echo = self.create_publisher(String, 'echo', 10)
        self.create_subscription(String, 'say', self.on_say, 10)
        self.create_service(SetBool, '~/switch', self.on_switch)
        self.create_service(Trigger, '~/whoami', self.on_whoami)
        self.get_logger().info('robot is up')
        self.get_logger().debug('a detail')

    def on_say(self, message):
        """Answer with the label."""
        self.echo.publish(String(data=f'{self.get_parameter("label").value}: {message.data}'))

    def on_switch(self, request, response):
        """Tell what was asked."""
        response.success = request.data
        response.message = 'on' if request.data else 'off'
        return response

    def on_whoami(self, request, response):
        """Tell the name."""
        response.success = True
        response.message = self.get_fully_qualified_name()
        return response


def robot() -> int:
    """Spin a Robot."""
    rclpy.init()
    run(Robot())
    return 0


def careless() -> None:
    """Spin without catching anything."""
    rclpy.init()
    node = Node('careless')
    print('ready', flush=True)
    rclpy.spin(node)


def multithreaded() -> int:
    """Spin in a MultiThreadedExecutor; SIGTERM makes it return."""
    rclpy.init()
    executor = MultiThreadedExecutor(2)
    executor.add_node(Node('multithreaded'))
    print('ready', flush=True)
    executor.spin()
    print('returned', flush=True)
    return 0


def forgetful() -> None:
    """Reach the end of the program without any clean-up."""
    rclpy.init()
    node = Node('forgetful')
    print(f'{node.get_name()} is ready', flush=True)
    sys.stdin.readline()
    sys.exit(3)


def latched() -> int:
    """Publish five messages before anybody listens and stay."""
    rclpy.init()
    node = Node('latched')
    profile = QoSProfile(depth=5, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publisher = node.create_publisher(String, 'history', profile)
    for i in range(5):
        publisher.publish(String(data=str(i)))
    run(node)
    return 0


def best_effort() -> int:
    """Publish best effort, twenty times a second."""
    rclpy.init()
    node = Node('best_effort')
    profile = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = node.create_publisher(String, 'sensor', profile)
    node.create_timer(0.05, lambda: publisher.publish(String(data='x')))
    run(node)
    return 0


def camera() -> int:
    """Publish images of 250 kB, twenty times a second."""
    rclpy.init()
    node = Node('camera')
    publisher = node.create_publisher(CompressedImage, 'image', 5)
    image = CompressedImage(format='jpeg', data=bytes(range(250)) * 1000)
    image.header.stamp.sec = 12
    node.create_timer(0.05, lambda: publisher.publish(image))
    run(node)
    return 0


def caller() -> int:
    """Call the switch of the robot and print the answer."""
    rclpy.init()
    node = Node('caller')
    client = node.create_client(SetBool, '/robot/switch')
    client.wait_for_service(10)
    for _ in range(int(os.environ['CALLS'])):
        future = client.call_async(SetBool.Request(data=True))
        rclpy.spin_until_future_complete(node, future, timeout_sec=5)
        print(f'answer {future.result().message}', flush=True)
    rclpy.shutdown()
    return 0


def blocked() -> None:
    """Sit in a callback that does not end."""
    rclpy.init()
    node = Node('blocked')

    def block():
        print('blocking', flush=True)
        time.sleep(30)

    node.create_timer(0.01, block)
    rclpy.spin(node)


def ignoring() -> int:
    """Spin a Robot with SIGINT ignored, as in a background job of a shell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return robot()


def looking() -> int:
    """Read the graph, and take messages, until SIGINT."""
    rclpy.init()
    node = Node('looking')
    publisher = node.create_publisher(String, 'said', 100)
    node.create_subscription(String, 'said', lambda message: None, 100)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        print('ready', flush=True)
        while True:
            node.get_topic_names_and_types()
            for _ in range(50):
                publisher.publish(String())
                executor.spin_once(timeout_sec=0)
    except (KeyboardInterrupt, ExternalShutdownException):
        print('interrupted', flush=True)
    rclpy.try_shutdown()
    return 0


def compiling() -> int:
    """Catch a SIGINT that comes while code is compiled, as at the first message of a type."""
    rclpy.init()
    try:
        exec('import os, signal; os.kill(os.getpid(), signal.SIGINT)')
    except KeyboardInterrupt:
        print('interrupted', flush=True)
    rclpy.try_shutdown()
    return 0


def listener() -> int:
    """Subscribe eight topics."""
    rclpy.init()
    node = Node('listener')
    for i in range(8):
        node.create_subscription(String, f'/say_{i}', lambda message: None, 1)
    run(node)
    return 0
