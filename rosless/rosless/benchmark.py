"""Cost of receiving: `python -m rosless.benchmark [--seconds S]`, last line JSON.

A publisher in another process sends CompressedImage messages on several topics over loopback, as
four cameras would; this process receives them as numpy views and measures its CPU time, that of
the DDS threads included.
"""

import argparse
import json
import os
import subprocess
import sys
import time

from rosless.importer import install

# No multicast: a container may have none on its loopback.
LOOPBACK = (
    '<CycloneDDS><Domain Id="any"><General><Interfaces>'
    '<NetworkInterface address="127.0.0.1"/></Interfaces><AllowMulticast>false</AllowMulticast>'
    '</General><Discovery><ParticipantIndex>auto</ParticipantIndex>'
    '<MaxAutoParticipantIndex>32</MaxAutoParticipantIndex>'
    '<Peers><Peer Address="127.0.0.1"/></Peers></Discovery></Domain></CycloneDDS>'
)
WARM_UP_S = 1.0


def publish(options: argparse.Namespace) -> None:
    """Send until this process is ended."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import CompressedImage

    rclpy.init(args=[])
    node = rclpy.create_node('benchmark_cameras')
    publishers = [
        node.create_publisher(CompressedImage, f'/camera_{i}', qos_profile_sensor_data)
        for i in range(options.streams)
    ]
    message = CompressedImage(format='jpeg', data=os.urandom(options.kilobytes * 1000))

    def send() -> None:
        message.header.stamp = node.get_clock().now().to_msg()
        for publisher in publishers:
            publisher.publish(message)

    node.create_timer(1 / options.rate_hz, send)
    rclpy.spin(node)


def receive(options: argparse.Namespace) -> dict:
    """Receive for the given time and return the figures."""
    import numpy as np
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import CompressedImage

    rclpy.init(args=[])
    node = rclpy.create_node('benchmark_receiver')
    latency_ms: list[float] = []
    received_bytes = 0

    def take(message) -> None:
        nonlocal received_bytes
        sent_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        latency_ms.append((time.time_ns() - sent_ns) / 1e6)
        received_bytes += np.asarray(message.data).nbytes

    for i in range(options.streams):
        node.create_subscription(CompressedImage, f'/camera_{i}', take, qos_profile_sensor_data)

    def spin_for(seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            executor.spin_once(timeout_sec=left_s)

    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not latency_ms:
        executor.spin_once()
    spin_for(WARM_UP_S)
    latency_ms.clear()
    received_bytes = 0
    start_s, start_cpu_s = time.monotonic(), time.process_time()
    spin_for(options.seconds)
    elapsed_s, cpu_s = time.monotonic() - start_s, time.process_time() - start_cpu_s
    rclpy.shutdown()
    return {
        'streams': options.streams,
        'kilobytes': options.kilobytes,
        'rate_hz': options.rate_hz,
        'seconds': round(elapsed_s, 2),
        'received_hz': round(len(latency_ms) / elapsed_s, 1),
        'megabytes_per_s': round(received_bytes / 1e6 / elapsed_s, 1),
        'latency_p50_ms': round(float(np.percentile(latency_ms, 50)), 2),
        'latency_p99_ms': round(float(np.percentile(latency_ms, 99)), 2),
        'cpu_percent_of_a_core': round(100 * cpu_s / elapsed_s, 2),
    }


def main() -> None:
    """Run the benchmark on loopback, whatever the environment says of DDS."""
    parser = argparse.ArgumentParser(description='CPU cost of receiving camera streams')
    parser.add_argument('--streams', type=int, default=4)
    parser.add_argument('--kilobytes', type=int, default=250, help='size of one image')
    parser.add_argument('--rate-hz', type=float, default=30.0, help='of each stream')
    parser.add_argument('--seconds', type=float, default=10.0, help='length of the measurement')
    parser.add_argument('--publish', action='store_true', help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ['CYCLONEDDS_URI'] = LOOPBACK
    print(install(), file=sys.stderr)
    if options.publish:
        publish(options)
        return
    command = [sys.executable, '-m', 'rosless.benchmark', '--publish', *sys.argv[1:]]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as publisher:
        try:
            figures = receive(options)
        finally:
            publisher.terminate()
    print(json.dumps(figures))


if __name__ == '__main__':
    main()
