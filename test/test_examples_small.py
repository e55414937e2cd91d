"""The whole chain over the wire: cameras, the node with `small`, the follower, the vehicle."""

import os

import numpy as np
import pytest
from test_examples import EXAMPLES, PLAN_NS, SECOND, STEP_NS, STEP_S, WHEELBASE_M, Car
from wire import NODE, QoSProfile, arguments, running, stamp_ns

from alpamayo_ros.drives.scene import START_NS
from alpamayo_ros.ros.messages import import_interface, make, make_header
from alpamayo_ros.world.camera import CAMERAS

DRIVE, SECONDS = 11, 2.0  # it has a turn of 90 degrees
SIZE = 64, 160  # of the pictures, as `small` sees them
NAMESPACE, HISTORY_NS, FRAME_NS = '/small', 1_600_000_000, 100_000_000
IMAGE = 'sensor_msgs/msg/Image'


class SeeingCar(Car):
    """The vehicle with cameras; the node plans in place of the expert. paths: those it sent."""

    def __init__(self):
        super().__init__(SECONDS, DRIVE, SIZE, NAMESPACE)
        self.paths = []
        kind = import_interface('nav_msgs/msg/Path')
        self.node.create_subscription(kind, 'alpamayo/output/path', self.paths.append, 10)
        kind = import_interface(IMAGE)
        self.cameras = [
            self.node.create_publisher(kind, f'camera/{camera.name}', QoSProfile(depth=10))
            for camera in CAMERAS
        ]

    def tell_pictures(self, now_ns):
        """Publish what the cameras see at a time."""
        simulation = self.run.simulation
        moment = simulation.moment((now_ns - START_NS) / SECOND)
        pictures = self.run.drive.stage.pictures([moment])[:, 0]  # (C, 3, H, W)
        header, (height, width) = make_header(make, now_ns, 'camera'), SIZE
        for publisher, picture in zip(self.cameras, pictures, strict=True):
            rows = np.ascontiguousarray(picture.transpose(1, 2, 0)).reshape(-1)
            facts = {'height': height, 'width': width, 'encoding': 'rgb8', 'step': 3 * width}
            publisher.publish(make(IMAGE, header=header, data=rows, **facts))

    def tell_history(self):
        """Publish what the node needs to know before the first t0."""
        for past_ns in range(-HISTORY_NS, 0, STEP_NS):
            self.tell_pose(START_NS + past_ns, self.run.simulation.trace.ego(past_ns / SECOND))
            if past_ns >= -3 * FRAME_NS and past_ns % FRAME_NS == 0:
                self.tell_pictures(START_NS + past_ns)

    def wait_for_plan(self):
        """Hear until there is a path of this time."""
        self.until(lambda: self.paths and stamp_ns(self.paths[-1]) == self.now_ns, 'no path')


def write_rig(path):
    """Write the rig of these cameras and odometry, by topics below the namespace."""
    lines = ['anchor: front_wide', 'odometry_topic: odometry', 'cameras:']
    for camera in CAMERAS:
        lines += [f'  - name: {camera.name}', f'    index: {camera.index}']
        lines += [f'    topic: camera/{camera.name}', f'    type: {IMAGE}']
    path.write_text('\n'.join(lines))
    return path


def test_node_and_follower_drive_the_world_through_its_pictures(tmp_path):
    words = ['-r', f'__ns:={NAMESPACE}']
    node = {'rig': write_rig(tmp_path / 'world.yaml'), 'checkpoint': 'small', 'bits': 16}
    node |= {'device': 'cpu', 'max_rate_hz': 2, 'use_sim_time': True, 'greedy': True}
    follower = arguments(wheelbase_m=WHEELBASE_M, use_sim_time=True)
    follower += [*words, '-r', 'path:=alpamayo/output/path']
    path = os.pathsep.join([EXAMPLES, os.environ.get('PYTHONPATH', '')])
    with (
        running(NODE, *arguments(**node), *words) as planner,
        running('ackermann_follower', *follower, PYTHONPATH=path) as steering,
    ):
        car = SeeingCar()
        car.run.drive.stage.pictures([car.run.simulation.moment(0.0)])  # compiles the renderer
        planner.wait_for_line('model ready')
        inputs = [car.publishers['odometry'], *car.cameras, car.publishers['/clock']]
        car.until(lambda: all(x.get_subscription_count() for x in inputs), 'not heard')
        begin_m = car.state.s_m
        car.tell_time()
        car.tell_history()
        for step in range(round(SECONDS / STEP_S)):
            car.tell_motion()
            if car.now_ns % FRAME_NS == 0:
                car.tell_pictures(car.now_ns)
            # the rate may be exceeded by a quarter of a period: at 0.4 s, 0.9 s, ...
            if step == 0 or (car.now_ns + FRAME_NS) % PLAN_NS == 0:
                car.wait_for_plan()
            if step == 0:
                car.until(lambda: car.engage(True).success, 'not engaged', car.tell_motion)
            car.wait_for_command(car.now_ns, car.tell_motion)
            car.run.simulation.step(car.obey().after(STEP_S))
        assert not [line for line in steering.lines if 'stopping' in line]
        expert_m = car.run.drive.scenario.expert.ego(SECONDS).s_m - begin_m
        assert car.run.record()['demands'] == ['turn']
        assert car.state.s_m - begin_m == pytest.approx(expert_m, rel=0.1) and expert_m > 14.0
        assert abs(car.run.simulation.offset_from_path_m()) < 0.5
        assert len(car.paths) == 1 + round(SECONDS * SECOND / PLAN_NS)
        car.close()
