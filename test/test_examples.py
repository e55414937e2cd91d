"""The followers of examples/ drive the synthetic world in closed loop, over the wire."""

from dataclasses import replace
import importlib
import math
import os
import sys
import threading
import time
from types import ModuleType

from nav2_stub import ABORTED, CANCELED, SUCCEEDED, ControllerServer, make_action
import numpy as np
import pytest
from wire import (
    BEST_EFFORT,
    FOLDER,
    LIMIT_S,
    Process,
    SignalHandlerOptions,
    SingleThreadedExecutor,
    arguments,
    rclpy,
    stamp_ns,
)

from alpamayo_ros.data_types import EgoPose
from alpamayo_ros.drives.closed_loop import ClosedLoop, begin_drive
from alpamayo_ros.drives.planners import ExpertPlanner
from alpamayo_ros.drives.scene import START_NS
from alpamayo_ros.ros.messages import import_interface, make, make_header, make_pose, make_time
from alpamayo_ros.ros.publishing.outputs import build_path
from alpamayo_ros.ros.publishing.policy import Policies
from alpamayo_ros.ros.publishing.stamped_prediction import StampedPrediction
from alpamayo_ros.world.moments import SIMULATION_STEP_S as STEP_S

EXAMPLES = str(FOLDER.parent / 'examples')
sys.path.append(EXAMPLES)
from ackermann_follower import follow_path  # noqa: E402 - a script, not in a package

WHEELBASE_M = 2.9
TURN = 11  # this drive of the split has a turn of 90 degrees in its first seconds
AGAIN_S = 0.3  # after so long without an answer a message is sent again
SECOND = 10**9
NO_SIGNALS = SignalHandlerOptions.NO
STEP_NS, PLAN_NS = round(STEP_S * SECOND), SECOND // 2


class Car:
    """The vehicle in the world and, as its planner, the expert; everything goes over the wire."""

    def __init__(self, seconds, drive=TURN, size=(8, 8), namespace=''):
        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context, signal_handler_options=NO_SIGNALS)
        self.node = rclpy.create_node('car', context=self.context, namespace=namespace)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.run = begin_drive(ClosedLoop('test', 1, seconds, 0.0, Policies(), 0), drive, size)
        self.commands = []
        self.publishers = {
            topic: self.node.create_publisher(import_interface(kind), topic, qos)
            for topic, kind, qos in (
                ('/clock', 'rosgraph_msgs/msg/Clock', BEST_EFFORT),
                ('odometry', 'nav_msgs/msg/Odometry', 1),
                ('path', 'nav_msgs/msg/Path', 1),
            )
        }
        kind = import_interface('ackermann_msgs/msg/AckermannDriveStamped')
        self.node.create_subscription(kind, 'drive', self.commands.append, 10)
        self.engaging = self.connect('ackermann_follower')

    def close(self):
        """Leave the graph."""
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    @property
    def state(self):
        """Motion of the vehicle now."""
        return self.run.simulation.trace.steps[-1].ego

    @property
    def now_ns(self):
        """Time of the world."""
        return START_NS + round(self.run.simulation.time_s * SECOND)

    def until(self, condition, what, again=lambda: None):
        """Hear until a condition holds; `again` is done whenever nothing comes."""
        end_s = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < end_s, what
            quiet_s = time.monotonic() + AGAIN_S
            while not condition() and time.monotonic() < quiet_s:
                self.executor.spin_once(timeout_sec=0.05)
            if not condition():
                again()

    def connect(self, follower):
        """Client of ~/engage of a follower."""
        kind = import_interface('std_srvs/srv/SetBool')
        return self.node.create_client(kind, f'{follower}/engage')

    def engage(self, data, client=None):
        """Answer of ~/engage."""
        client = client or self.engaging
        self.until(client.service_is_ready, 'no service')
        future = client.call_async(client.srv_type.Request(data=data))
        self.until(future.done, 'no answer')
        return future.result()

    def tell_time(self):
        """Publish /clock."""
        now = make_time(make, self.now_ns)
        self.publishers['/clock'].publish(make('rosgraph_msgs/msg/Clock', clock=now))

    def tell_motion(self):
        """Publish the odometry."""
        self.tell_time()
        self.tell_pose(self.now_ns, self.state)

    def tell_pose(self, now_ns, state):
        """Publish one message of the odometry."""
        odometry = make('nav_msgs/msg/Odometry', header=make_header(make, now_ns, 'world'))
        odometry.child_frame_id = 'base_link'
        odometry.pose.pose = place(state)
        odometry.twist.twist.linear.x = state.speed_mps
        odometry.twist.twist.angular.z = state.speed_mps * state.curvature
        self.publishers['odometry'].publish(odometry)

    def plan(self):
        """Publish the path of the expert from where the vehicle is."""
        scene = self.run.scene()
        (prediction,) = ExpertPlanner().plan([scene], 0)
        stamped = StampedPrediction(
            prediction=prediction, odom_from_t0=scene.pose(), now_ns=self.now_ns
        )
        self.publishers['path'].publish(build_path(stamped, make))

    def tell_plan(self):
        """Publish /clock and the path: a follower that knows no time yet takes no path."""
        self.tell_time()
        self.plan()

    def drive(self, seconds, plans=True, moves=True, late_steps=0):
        """Drive as the commands say, which may be late; None: there are none to wait for."""
        for _ in range(round(seconds / STEP_S)):
            if plans and self.now_ns % PLAN_NS == 0:
                self.plan()
            tell = self.tell_motion if moves else self.tell_time
            tell()
            if late_steps is not None:
                self.wait_for_command(self.now_ns - late_steps * STEP_NS, tell)
            else:
                self.executor.spin_once(timeout_sec=0.01)
            self.run.simulation.step(self.obey().after(STEP_S))

    def wait_for_command(self, due_ns, again):
        """Hear until the last command is from this time."""
        commands = self.commands
        self.until(lambda: commands and stamp_ns(commands[-1]) >= due_ns, 'no command', again)

    def obey(self):
        """Motion of a vehicle that does what the last command says."""
        if not self.commands:
            return replace(self.state, acceleration_mps2=0.0)
        wanted = self.commands[-1].drive
        change = (wanted.speed - self.state.speed_mps) / STEP_S
        limit = wanted.acceleration
        return replace(
            self.state,
            acceleration_mps2=max(-limit, min(limit, change)),
            curvature=math.tan(wanted.steering_angle) / WHEELBASE_M,
        )


def place(state):
    """geometry_msgs/Pose of the vehicle."""
    half = state.yaw_rad / 2
    return make_pose(make, (state.x_m, state.y_m, 0.0), (0.0, 0.0, math.sin(half), math.cos(half)))


@pytest.fixture(scope='module')
def car():
    car = Car(seconds=9.0)
    yield car
    car.close()


@pytest.fixture(scope='module')
def process(car):
    """Start the follower; all tests drive on in one world."""
    path = os.pathsep.join([EXAMPLES, os.environ.get('PYTHONPATH', '')])
    words = arguments(wheelbase_m=WHEELBASE_M, use_sim_time=True)
    process = Process('ackermann_follower', *words, PYTHONPATH=path)
    car.until(lambda: all(p.get_subscription_count() for p in car.publishers.values()), 'no node')
    yield process
    process.kill()


@pytest.fixture
def follower(car, process):
    """Return the follower, which nobody has engaged."""
    assert car.engage(False).success
    car.commands.clear()
    process.lines.clear()
    return process


def straight(seconds=6.4):
    """A path of the planner along x at 10 m/s from START_NS on."""
    path = make('nav_msgs/msg/Path', header=make_header(make, START_NS, 'odom'))
    for k in range(1, round(seconds * 10) + 1):
        header = make_header(make, START_NS + k * SECOND // 10, 'odom')
        at = make_pose(make, (k, 0, 0), (0, 0, 0, 1))
        path.poses.append(make('geometry_msgs/msg/PoseStamped', header=header, pose=at))
    return path


def vehicle(after_s=0.0, speed=10.0, x=0.0, y=0.0):
    """Pose of the vehicle some time after the stamp of `straight`."""
    stamp = START_NS + round(after_s * SECOND)
    return EgoPose(stamp, np.array([x, y, 0.0]), np.array([0.0, 0, 0, 1]), speed)


def test_a_vehicle_on_the_path_goes_on_as_it_does():
    wanted = follow_path(straight(), vehicle(after_s=1.0, x=10.0))
    assert (wanted.acceleration_mps2, wanted.curvature) == (pytest.approx(0, abs=1e-9), 0.0)


@pytest.mark.parametrize(
    'pose, acceleration, curvature',
    [
        (vehicle(x=-0.02), 0.2, 0),  # 0.02 m behind: 0.01 m/s faster within a step
        (vehicle(speed=9.9), 2.0, 0),
        (vehicle(y=0.5), 0, -0.5 / 11**2),  # left of it
        (vehicle(after_s=7.0, x=70.0), -3.0, 0),  # behind its end
    ],
)
def test_a_vehicle_beside_the_path_is_led_to_it(pose, acceleration, curvature):
    wanted = follow_path(straight(), pose)
    assert wanted.acceleration_mps2 == pytest.approx(acceleration, abs=1e-6)
    assert wanted.curvature == pytest.approx(curvature, abs=1e-9)


def spoil(path, change):
    """The path with each pose changed."""
    for pose in path.poses:
        change(pose)
    return path


@pytest.mark.parametrize(
    'path, pose, fault',
    [
        (straight(seconds=0.2), vehicle(), 'the stamps of the path do not rise'),
        (
            spoil(straight(), lambda p: setattr(p.header.stamp, 'sec', 100)),
            vehicle(),
            'the stamps of the path do not rise',
        ),
        (
            spoil(straight(), lambda p: setattr(p.pose.position, 'y', math.nan)),
            vehicle(),
            'the path is not finite',
        ),
        (straight(), vehicle(speed=math.nan), 'the speed of the odometry is not finite'),
        (
            straight(),
            replace(vehicle(), frame_id='map'),
            "path in 'odom', odometry in 'map'",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused(path, pose, fault):
    with pytest.raises(ValueError, match=fault):
        follow_path(path, pose)


def test_nothing_is_commanded_before_somebody_engages(car, follower):
    refused = car.engage(True)
    assert (refused.success, refused.message) == (False, 'there is no path')
    car.drive(0.2, late_steps=None)
    assert car.commands == []


def test_an_engaged_follower_drives_the_world_through_a_turn(car, follower):
    car.drive(0.3, late_steps=None)
    assert car.engage(True).success
    car.drive(8.5)
    record = car.run.record()
    assert record['demands'] == ['turn']
    assert record['score'] > 99 and record['progress'] == pytest.approx(1.0, abs=0.02)
    assert abs(car.run.simulation.offset_from_path_m()) < 0.3


def test_a_path_that_is_too_old_stops_the_vehicle_until_somebody_engages_again(car, follower):
    car.drive(0.5, late_steps=None)
    assert car.engage(True).success
    car.drive(0.5)
    car.drive(1.5, plans=False)
    assert car.state.speed_mps > 4.0  # the path is 2 s old
    car.drive(4.0, plans=False, late_steps=2)
    follower.wait_for_line('stopping: the path is 2.1 s old')
    car.drive(0.5, late_steps=2)
    assert car.state.speed_mps == 0.0  # a new path alone does not start it
    assert car.engage(True).success
    car.drive(1.0)
    assert car.state.speed_mps > 1.0


@pytest.fixture
def engaged(car, follower):
    """The vehicle after 0.2 s of driving."""
    car.drive(0.5, late_steps=None)
    assert car.engage(True).success
    car.drive(0.2)


@pytest.mark.usefixtures('engaged')
def test_a_vehicle_that_is_released_gets_no_commands(car):
    assert car.engage(False).success
    car.commands.clear()
    car.drive(0.2, late_steps=None)
    assert car.commands == []


@pytest.mark.usefixtures('engaged')
def test_odometry_that_no_longer_comes_stops_the_vehicle(car, follower):
    car.drive(0.6, moves=False, late_steps=None)
    follower.wait_for_line('stopping: the odometry is ')
    stop = car.commands[-1].drive
    assert (stop.speed, stop.acceleration) == (0.0, 3.0)


@pytest.fixture(params=['jazzy'])
def nav2(request, car, monkeypatch):
    """Return the controller server of a running Nav2Follower, and the client of its gate."""
    server = ControllerServer()
    monkeypatch.setitem(sys.modules, 'nav2_msgs', ModuleType('nav2_msgs'))
    stubs = {'nav2_msgs.action': {'FollowPath': make_action(request.param)}}
    stubs['rclpy.action'] = {'ActionClient': server.make_client}
    for name, members in stubs.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, 'nav2_follower', raising=False)
    follower = importlib.import_module('nav2_follower')
    context = rclpy.get_default_context()
    rclpy.init(args=['--ros-args', '-p', 'use_sim_time:=true'], signal_handler_options=NO_SIGNALS)
    node, executor = follower.Nav2Follower(), SingleThreadedExecutor(context=context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    client = car.connect('nav2_follower')
    yield server, client
    executor.shutdown()
    thread.join(LIMIT_S)
    car.node.destroy_client(client)
    node.destroy_node()
    rclpy.try_shutdown()


def follow_goals(car, server, seconds):
    """Drive as a controller that follows the goal which the server drives."""
    for _ in range(round(seconds / STEP_S)):
        if car.now_ns % PLAN_NS == 0:
            car.plan()
            car.until(
                lambda: server.current and stamp_ns(server.current.goal.path) == car.now_ns,
                'no goal', car.tell_plan,
            )  # fmt: skip
        car.tell_motion()
        wanted = follow_path(server.current.goal.path, car.run.scene().pose())
        car.run.simulation.step(wanted.after(STEP_S))


def engage_nav2(car, gate):
    """Engage at the time of a plan."""
    while car.now_ns % PLAN_NS:
        car.drive(STEP_S, late_steps=None)
    car.tell_plan()
    car.until(lambda: car.engage(True, gate).success, 'not engaged', car.tell_time)


@pytest.mark.parametrize('nav2', ['humble', 'jazzy'], indirect=True)
def test_nav2_gets_each_path_while_engaged_and_a_cancellation_after(car, nav2):
    server, gate = nav2
    begin_m = car.state.s_m
    engage_nav2(car, gate)
    follow_goals(car, server, 6.0)
    assert car.state.s_m - begin_m > 20.0
    assert abs(car.run.simulation.offset_from_path_m()) < 0.3
    assert car.engage(False, gate).success
    car.until(lambda: not server.goals[-1].is_active, 'not cancelled', car.tell_time)
    # each goal was preempted by the next one; only the last one was cancelled
    assert [handle.status for handle in server.goals[:-1]] == [ABORTED] * (len(server.goals) - 1)
    assert server.goals[-1].status == CANCELED
    count = len(server.goals)
    car.drive(1.0, late_steps=None)
    assert len(server.goals) == count


@pytest.mark.parametrize('is_ready, accepts, goals', [(False, True, 0), (True, False, 1)])
def test_nav2_that_takes_no_goal_closes_the_gate(car, nav2, is_ready, accepts, goals):
    server, gate = nav2
    server.is_ready, server.accepts = is_ready, accepts
    engage_nav2(car, gate)
    car.drive(1.2, late_steps=None)
    assert len(server.goals) == goals


def test_a_goal_that_is_accepted_after_the_gate_has_closed_is_cancelled(car, nav2):
    server, gate = nav2
    server.holds_answers = True
    engage_nav2(car, gate)
    car.until(lambda: server._calls, 'no goal', car.tell_time)
    assert car.engage(False, gate).success
    server.holds_answers = False
    car.until(lambda: server.goals and not server.goals[-1].is_active, 'driven', car.tell_time)
    assert [handle.status for handle in server.goals] == [CANCELED]


def test_a_goal_that_nav2_gives_up_closes_the_gate_and_one_that_it_reaches_does_not(car, nav2):
    server, gate = nav2
    engage_nav2(car, gate)
    follow_goals(car, server, 0.6)
    server.finish()
    follow_goals(car, server, 0.6)
    assert SUCCEEDED in [handle.status for handle in server.goals]
    server.fail(105)
    car.until(lambda: not server.current.is_active, 'not given up', car.tell_time)
    count = len(server.goals)
    car.drive(1.0, late_steps=None)
    assert len(server.goals) == count
    assert car.engage(True, gate).success  # somebody looks, and engages again
    car.until(lambda: len(server.goals) > count, 'no goal', car.tell_plan)
