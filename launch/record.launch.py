"""Record what alpamayo_node got, what it did and why, beside a node that runs.

Inputs of the rig, outputs, status, transforms, diagnostics, log and changes of parameters go into
a bag; the parameters themselves into a file beside it, as soon as the node answers. Runs with the
launch and ros2bag of Humble and of Jazzy.
"""

from datetime import datetime, timezone
from pathlib import Path

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.substitutions import LaunchConfiguration

from alpamayo_ros.ros.remaps import make_recorded_pattern, read_remaps

RETRY_S = 5.0  # until a node that starts later answers


def generate_launch_description():
    """Return the arguments and what they start."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'rig', default_value='', description='Rig file of the node. Required.'
            ),
            DeclareLaunchArgument(
                'out',
                default_value='',
                description='New folder for bag and parameters; empty: alpamayo_TIME, here.',
            ),
            DeclareLaunchArgument(
                'namespace', default_value='', description='Namespace of the node.'
            ),
            DeclareLaunchArgument(
                'remaps',
                default_value='',
                description='Other names of topics and services: FROM:=TO, with spaces between.',
            ),
            OpaqueFunction(function=_processes),
        ]
    )


def _processes(context):
    """Return recorder and reader of the parameters, and the handler that asks again."""
    rig, out, namespace, remaps = (
        LaunchConfiguration(name).perform(context)
        for name in ('rig', 'out', 'namespace', 'remaps')
    )
    node = '/' + f'{namespace}/alpamayo'.strip('/')
    folder = Path(out or f'alpamayo_{datetime.now(tz=timezone.utc):%Y-%m-%dT%H-%M-%S}').resolve()
    pattern = make_recorded_pattern(rig, node, read_remaps(remaps))
    folder.mkdir(parents=True)
    readers = []

    def read_parameters():
        """Write the parameters into a file."""
        file, into_file = str(folder / 'parameters.yaml'), ['bash', '-c', 'exec "$@" > "$0"']
        command = [*into_file, file, 'ros2', 'param', 'dump', node]
        readers.append(ExecuteProcess(cmd=command, output='screen'))
        return readers[-1]

    def ask_again(event, context):
        """Ask a node again that was not there."""
        if event.action not in readers or not event.returncode or context.is_shutdown:
            return None
        return TimerAction(period=RETRY_S, actions=[read_parameters()])

    return [
        RegisterEventHandler(OnProcessExit(on_exit=ask_again)),
        ExecuteProcess(
            cmd=['ros2', 'bag', 'record', '--regex', pattern, '--output', str(folder / 'bag')],
            output='screen',
        ),
        read_parameters(),
    ]
