"""Play a recorded drive to alpamayo_node, show it in RViz and record what the node publishes.

The bag starts when the model is ready. Everything ends finish_s after the end of the bag, or with
the first process that ends; exit status 1 when that was an error. Arguments of alpamayo.launch.py
are taken here too. Runs with the launch and ros2bag of Humble and of Jazzy.
"""

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import SetParametersFromFile
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare('alpamayo_ros')
PARAMETERS = PathJoinSubstitution([SHARE, 'config', 'replay.param.yaml'])
CLOCK_HZ = '200'  # the age of an input is known to 5 ms, the default of ros2 bag to 25 ms
RECORDED = '/alpamayo/(output|debug)/|^/diagnostics$'


def generate_launch_description():
    """Return the arguments and what they start."""
    return LaunchDescription(
        [
            DeclareLaunchArgument('bag', description='rosbag2 folder to play; without /clock.'),
            DeclareLaunchArgument(
                'rate', default_value='1.0', description='Speed of the replay, real time is 1.'
            ),
            DeclareLaunchArgument(
                'loop',
                default_value='false',
                description='Play the bag again and again.',
                choices=['true', 'false'],
            ),
            DeclareLaunchArgument(
                'out',
                default_value='',
                description='New folder for the recorded outputs; empty: rosbag2_DATE, here.',
            ),
            DeclareLaunchArgument(
                'finish_s',
                default_value='5.0',
                description='How long the node may go on after the end of the bag, s.',
            ),
            DeclareLaunchArgument(
                'params_file',
                default_value=PARAMETERS,
                description='YAML file with parameters of the node, over those of a replay.',
            ),
            DeclareLaunchArgument(
                'rviz',
                default_value='true',
                description='Start RViz with config/alpamayo.rviz.',
                choices=['true', 'false'],
            ),
            DeclareLaunchArgument(
                'log_level',
                default_value='info',
                description='Least severe messages that are logged; the bag waits for one.',
                choices=['debug', 'info'],
            ),
            OpaqueFunction(function=_processes),
        ]
    )


def _processes(context):
    """Return node and recorder, and the handlers that start the player and end everything."""
    bag, rate, out = (
        LaunchConfiguration(name).perform(context) for name in ('bag', 'rate', 'out')
    )
    loop = LaunchConfiguration('loop').perform(context) == 'true'
    player = ExecuteProcess(
        cmd=['ros2', 'bag', 'play', bag, '--clock', CLOCK_HZ, '--rate', rate]
        + ['--disable-keyboard-controls', *(['--loop'] if loop else [])],
        output='screen',
    )
    # by the clock of the bag, so that both can be played side by side
    recorder = ExecuteProcess(
        cmd=['ros2', 'bag', 'record', '--use-sim-time', '--regex', RECORDED]
        + (['--output', out] if out else []),
        output='screen',
    )
    started = []

    def follow(event):
        """Start the player once the node has a model."""
        if b'model failed' in event.text:
            raise RuntimeError('the model could not be loaded')
        if b'model ready' in event.text and not started:
            started.append(player)
            return player
        return None

    def end(event, context):
        """End with the first process that does; after the bag the node has some time."""
        if context.is_shutdown:
            return None
        if event.returncode > 0:
            raise RuntimeError(f'{event.process_name} failed')
        ended = Shutdown(reason=f'{event.process_name} has ended')
        if event.action is not player:
            return ended
        return TimerAction(period=LaunchConfiguration('finish_s'), actions=[ended])

    return [
        RegisterEventHandler(OnProcessIO(on_stderr=follow)),
        RegisterEventHandler(OnProcessExit(on_exit=end)),
        SetParametersFromFile(PARAMETERS),  # comes first: params_file need not repeat it
        IncludeLaunchDescription(
            PathJoinSubstitution([SHARE, 'launch', 'alpamayo.launch.py']),
            launch_arguments={'use_sim_time': 'true'}.items(),
        ),
        recorder,
    ]
