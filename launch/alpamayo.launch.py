"""Launch alpamayo_node, and RViz where it is asked for.

A parameter that is given as an argument wins over params_file; one that is left empty does not
touch it. Runs with the launch of Humble and of Jazzy.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from alpamayo_ros.ros.remaps import read_remaps, remap

NAME = 'alpamayo'
CONFIG = PathJoinSubstitution([FindPackageShare('alpamayo_ros'), 'config'])
# Arguments that become parameters of the node when they are given: texts, and what is YAML.
TEXTS = ('rig', 'engine', 'checkpoint', 'recipe', 'device')
VALUES = ('bits', 'autostart', 'use_sim_time')
RESPAWN_DELAY_S = 2.0
# Topics of the RViz file that move with the namespace, those of the rig r1 among them.
RVIZ_TOPICS = (
    'alpamayo/output/path',
    'alpamayo/output/markers',
    'alpamayo/debug/path',
    'odometry',
    'camera/cross_left/image_raw/compressed',
    'camera/front_wide/image_raw/compressed',
    'camera/cross_right/image_raw/compressed',
    'camera/front_tele/image_raw/compressed',
)
# RViz looks for the calibration of a picture below the topic that image_transport leaves of it.
CAMERA_INFO = ('/camera/front_wide/image_raw/camera_info', 'camera/front_wide/camera_info')


def generate_launch_description():
    """Return the arguments and what they start."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'rig',
                default_value='',
                description='Rig file with cameras and topics: a name in config/rigs or a '
                'path. Required.',
            ),
            DeclareLaunchArgument(
                'engine',
                default_value='',
                description='Engine that predicts; constant_velocity needs no model.',
                choices=['', 'alpamayo', 'constant_velocity'],
            ),
            DeclareLaunchArgument(
                'checkpoint',
                default_value='',
                description='Checkpoint: a folder, a hub id, or small, a model of a synthetic'
                ' world that ships with the package. Required for the engine '
                'alpamayo.',
            ),
            DeclareLaunchArgument(
                'bits',
                default_value='',
                description='Bits per weight; a checkpoint in full precision is quantized '
                'while it is loaded.',
                choices=['', '1.58', '2', '4', '8', '16'],
            ),
            DeclareLaunchArgument(
                'recipe',
                default_value='',
                description='Quantization recipe that the checkpoint must have; empty: any, '
                'or the default one.',
            ),
            DeclareLaunchArgument(
                'device',
                default_value='',
                description='Device of the model: cuda, cuda:N or cpu.',
            ),
            DeclareLaunchArgument(
                'autostart',
                default_value='',
                description='Configure and activate at the start; false: wait for those '
                'transitions, or for ~/load.',
                choices=['', 'true', 'false'],
            ),
            DeclareLaunchArgument(
                'respawn',
                default_value='false',
                description='Start the node again when it has ended by itself.',
                choices=['true', 'false'],
            ),
            DeclareLaunchArgument(
                'use_sim_time',
                default_value='',
                description='Take the time from /clock, as a replay needs it.',
                choices=['', 'true', 'false'],
            ),
            DeclareLaunchArgument(
                'params_file',
                default_value=PathJoinSubstitution([CONFIG, 'alpamayo.param.yaml']),
                description='YAML file with parameters of the node.',
            ),
            DeclareLaunchArgument(
                'namespace',
                default_value='',
                description='Namespace of the node; topics are below NAMESPACE/alpamayo.',
            ),
            DeclareLaunchArgument(
                'remaps',
                default_value='',
                description='Other names of topics and services: FROM:=TO, with spaces between.',
            ),
            DeclareLaunchArgument(
                'log_level',
                default_value='info',
                description='Least severe messages that are logged.',
                choices=['debug', 'info', 'warn', 'error', 'fatal'],
            ),
            DeclareLaunchArgument(
                'rviz',
                default_value='false',
                description='Start RViz with config/alpamayo.rviz.',
                choices=['true', 'false'],
            ),
            OpaqueFunction(function=_nodes),
        ]
    )


def _nodes(context):
    """Return the nodes, with the values that the arguments have now."""
    overrides = {}
    for name in (*TEXTS, *VALUES):
        value = LaunchConfiguration(name)
        if value.perform(context):
            overrides[name] = ParameterValue(value, value_type=str) if name in TEXTS else value
    sim_time = {name: overrides[name] for name in overrides if name == 'use_sim_time'}
    # a full name, so that the overrides also win over a file that names the node
    namespace = '/' + LaunchConfiguration('namespace').perform(context).strip('/')
    node = f'{namespace.rstrip("/")}/{NAME}'
    remaps = read_remaps(LaunchConfiguration('remaps').perform(context))
    return [  # RViz first: where it is not installed, nothing has been started yet
        Node(
            package='rviz2',
            executable='rviz2',
            namespace=namespace,
            arguments=['-d', PathJoinSubstitution([CONFIG, 'alpamayo.rviz'])],
            parameters=[sim_time],
            remappings=[
                *((f'/{x}', remap(x, node, remaps)) for x in RVIZ_TOPICS),
                CAMERA_INFO,
            ],
            condition=IfCondition(LaunchConfiguration('rviz')),
            output='screen',
        ),
        Node(
            package='alpamayo_ros',
            executable='alpamayo_node',
            name=NAME,
            namespace=namespace,
            parameters=[_params_file(context), overrides],
            remappings=remaps.items(),
            ros_arguments=['--log-level', LaunchConfiguration('log_level')],
            respawn=LaunchConfiguration('respawn').perform(context) == 'true',
            respawn_delay=RESPAWN_DELAY_S,
            output='screen',
        ),
    ]


def _params_file(context):
    """Return the path of params_file; launch_ros itself would go on without a file."""
    path = LaunchConfiguration('params_file').perform(context)
    if not Path(path).is_file():
        raise RuntimeError(f"params_file: '{path}' is not a file")
    return path
