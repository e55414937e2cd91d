"""Launch, parameter and RViz files name what exists.

The launch files cannot be imported without ROS 2, so they are read; where ROS 2 is sourced they
also run, with programs in the place of the node and RViz that tell what they were started with.
"""

import ast
from dataclasses import fields
import json
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys

import pytest
from rosbags.highlevel import AnyReader
from rosless.benchmark import LOOPBACK
from small_bag import START_NS, drive, write, write_rig
import yaml

from alpamayo_ros.rig import load_rig
from alpamayo_ros.ros.input_topics import list_input_topics
from alpamayo_ros.ros.parameter_tables import format_parameter_file
from alpamayo_ros.ros.parameters import NodeParameters
from alpamayo_ros.ros.publishing.outputs import OUTPUTS

ROOT = Path(__file__).resolve().parents[1]
LAUNCH_FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
PARAMETER_FILES = sorted((ROOT / 'config').glob('*.yaml'))
FIELDS = {row.name: row for row in fields(NodeParameters)}
OF_ROS = {'use_sim_time'}  # parameters that rclpy declares
MESSAGES = {
    'Path': 'nav_msgs/msg/Path',
    'MarkerArray': 'visualization_msgs/msg/MarkerArray',
    'Odometry': 'nav_msgs/msg/Odometry',
    'Image': 'sensor_msgs/msg/CompressedImage',
    'Camera': 'sensor_msgs/msg/CompressedImage',
}


def parameters_of(path):
    """Parameters of a ROS parameter file for any node."""
    (values,) = yaml.safe_load(path.read_text(encoding='utf-8')).values()
    return values['ros__parameters']


def arguments_of(path):
    """Launch arguments by name: the keywords that are literals."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'DeclareLaunchArgument':
            literals = (ast.Constant, ast.List)
            found[ast.literal_eval(node.args[0])] = {
                keyword.arg: ast.literal_eval(keyword.value)
                if isinstance(keyword.value, literals)
                else ast.unparse(keyword.value)
                for keyword in node.keywords
            }
    return found


def constant_of(path, name):
    """Value of a module's constant."""
    for node in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise KeyError(name)


NODE_LAUNCH, RECORD_LAUNCH, REPLAY_LAUNCH = LAUNCH_FILES
NODE_ARGUMENTS = arguments_of(NODE_LAUNCH)


def test_the_parameter_file_holds_every_parameter_with_its_default():
    values = parameters_of(ROOT / 'config/alpamayo.param.yaml')
    assert list(values) == list(FIELDS)
    defaults = {name: (type(row.default), row.default) for name, row in FIELDS.items()}
    assert {name: (type(value), value) for name, value in values.items()} == defaults


def test_the_parameter_file_is_the_generated_one():
    text = (ROOT / 'config/alpamayo.param.yaml').read_text(encoding='utf-8')
    expected = format_parameter_file()
    assert text == expected, 'python -m alpamayo_ros.ros.parameter_tables writes it'


@pytest.mark.parametrize('path', PARAMETER_FILES, ids=lambda path: path.name)
def test_parameter_files_hold_parameters_with_values_that_are_allowed(path):
    NodeParameters(**{**parameters_of(path), 'rig': 'r1', 'engine': 'constant_velocity'})


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_every_launch_argument_is_described_and_all_but_the_bag_have_a_default(path):
    arguments = arguments_of(path)
    assert arguments
    for name, keywords in arguments.items():
        assert keywords['description'].endswith('.'), name
        assert ('default_value' in keywords) == (name != 'bag'), name
        default = keywords.get('default_value', '')
        assert default in keywords.get('choices', [default]), name


def test_launch_arguments_that_become_parameters_are_empty_and_say_what_the_parameter_says():
    names = {*constant_of(NODE_LAUNCH, 'TEXTS'), *constant_of(NODE_LAUNCH, 'VALUES')} - OF_ROS
    assert names >= {'rig', 'checkpoint', 'bits'}
    for name in names:
        facts, argument = FIELDS[name].metadata, NODE_ARGUMENTS[name]
        shown = [f'{c:g}' if isinstance(c, float) else c for c in facts['choices']]
        shown += ['true', 'false'] if FIELDS[name].type == 'bool' else []
        assert argument['default_value'] == ''
        assert argument['description'] == facts['description']
        assert argument.get('choices', ['']) == ['', *shown]
    text = constant_of(NODE_LAUNCH, 'TEXTS')
    assert {name for name in names if isinstance(FIELDS[name].default, str)} == set(text)


def test_arguments_that_the_replay_shares_with_the_node_mean_the_same():
    shared = arguments_of(REPLAY_LAUNCH).keys() & NODE_ARGUMENTS.keys()
    assert shared == {'params_file', 'rviz', 'log_level'}
    for name in shared:
        choices = arguments_of(REPLAY_LAUNCH)[name].get('choices', [])
        assert set(choices) <= set(NODE_ARGUMENTS[name].get('choices', []))


def test_arguments_that_the_recorder_shares_with_the_node_mean_the_same():
    shared = arguments_of(RECORD_LAUNCH).keys() & NODE_ARGUMENTS.keys()
    assert shared == {'rig', 'namespace', 'remaps'}


@pytest.fixture(scope='module')
def rviz():
    """Return the visualization manager of the RViz file."""
    text = (ROOT / 'config/alpamayo.rviz').read_text(encoding='utf-8')
    return yaml.safe_load(text)['Visualization Manager']


def test_rviz_shows_topics_that_the_node_publishes_or_the_rig_names_with_their_types(rviz):
    inputs = dict(list_input_topics(load_rig('r1')).values())
    outputs = {f'/alpamayo/{output.topic}': output.type_name for output in OUTPUTS}
    shown = [display for display in rviz['Displays'] if 'Topic' in display]
    for display in shown:
        topic, kind = display['Topic'], MESSAGES[display['Class'].split('/')[1]]
        assert {**inputs, **outputs}[topic['Value']] == kind
        wanted = 'Best Effort' if topic['Value'] in inputs else 'Reliable'
        assert topic['Reliability Policy'] == wanted
    topics = {display['Topic']['Value'] for display in shown}
    assert topics - outputs.keys() == set(inputs)
    moved = constant_of(NODE_LAUNCH, 'RVIZ_TOPICS')
    assert topics == {f'/{topic}' for topic in moved}
    assert dict(list_input_topics(load_rig('r1', '/car')).values()).keys() == {
        f'/car/{topic}' for topic in moved if not topic.startswith('alpamayo/')
    }


def test_rviz_shows_grid_and_transforms_in_the_frame_of_the_vehicle(rviz):
    classes = {display['Class'].split('/')[1] for display in rviz['Displays']}
    assert classes == {'Grid', 'TF', *MESSAGES}
    assert rviz['Global Options']['Fixed Frame'] == 'base_link'


def test_rviz_draws_no_lines_with_the_coordinates_of_a_map_in_float32(rviz):
    """They were jagged by half a metre; the markers are in the frame of the vehicle."""
    enabled = {d['Class'].split('/')[1] for d in rviz['Displays'] if d['Enabled']}
    assert 'MarkerArray' in enabled and not enabled & {'Path', 'Odometry'}


def test_rviz_knows_the_namespaces_of_the_markers(rviz):
    source = (ROOT / 'alpamayo_ros/ros/publishing/markers.py').read_text(encoding='utf-8')
    made = re.findall(r"_make_line\(plan, make, '(\w+)'|\bns='(\w+)'", source)
    (display,) = (d for d in rviz['Displays'] if d['Class'].endswith('MarkerArray'))
    assert set(display['Namespaces']) == {line or other for line, other in made}


# From here on: with ROS 2.

sourced = pytest.mark.skipif(
    shutil.which('ros2') is None, reason='no ROS 2 is sourced: launch files are read, not run'
)
TELL_NODE = """#!{python}
import json, rclpy
from rclpy.node import Node
rclpy.init()
node = Node('unnamed', automatically_declare_parameters_from_overrides=True)
values = {{name: p.value for name, p in node.get_parameters_by_prefix('').items()}}
print('NODE', json.dumps([node.get_fully_qualified_name(), values]), flush=True)
"""
TELL_RVIZ = """#!{python}
import json, sys
print('RVIZ', json.dumps(sys.argv[1:]), flush=True)
"""
NODE = """#!{python}
import sys
from alpamayo_ros.cli.node import main
sys.exit(main())
"""


@pytest.fixture
def installed(tmp_path):
    """Return a function: programs of packages by name to an environment where they are found."""

    def install(**programs):
        for package, (name, text) in programs.items():
            marker = tmp_path / f'share/ament_index/resource_index/packages/{package}'
            program = tmp_path / f'lib/{package}/{name}'
            for path, content in ((marker, ''), (program, text.format(python=sys.executable))):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
            program.chmod(0o755)
        share = tmp_path / 'share/alpamayo_ros'
        for folder in ('launch', 'config'):
            shutil.copytree(ROOT / folder, share / folder)
        return os.environ | {
            'AMENT_PREFIX_PATH': f'{tmp_path}:{os.environ["AMENT_PREFIX_PATH"]}',
            'PYTHONPATH': f'{os.environ.get("PYTHONPATH", "")}:{ROOT}',
            'CYCLONEDDS_URI': LOOPBACK,
            'ROS_DOMAIN_ID': '82',
            'ROS_HOME': str(tmp_path / 'log'),
        }

    return install


@pytest.fixture
def tell(installed):
    """Return a function: arguments of a launch file to exit status, lines and stories."""
    environment = installed(alpamayo_ros=('alpamayo_node', TELL_NODE), rviz2=('rviz2', TELL_RVIZ))

    def run(*arguments, file='alpamayo.launch.py'):
        status, text = launch(file, *arguments, environment=environment)
        stories = {
            who: json.loads(story)
            for who, story in re.findall(r'^\S+ (NODE|RVIZ) (.*)$', text, flags=re.M)
        }
        return status, text, stories

    return run


def launch(file, *arguments, environment):
    """Exit status and output of ros2 launch."""
    run = subprocess.run(
        ['ros2', 'launch', 'alpamayo_ros', file, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return run.returncode, run.stdout


@sourced
def test_arguments_win_over_the_file_and_empty_ones_leave_it(tell, tmp_path):
    file = tmp_path / 'some.yaml'
    anywhere = {'rig': 'r1', 'engine': 'constant_velocity', 'seed': 5, 'bits': 8.0}
    named = {'device': 'cuda', 'num_samples': 3}
    blocks = {'/**': anywhere, '/vehicle/alpamayo': named}
    content = {name: {'ros__parameters': values} for name, values in blocks.items()}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    status, text, told = tell(
        f'params_file:={file}', 'namespace:=vehicle', 'rig:=123', 'device:=cpu', 'bits:=1.58'
    )
    assert status == 0, text
    name, values = told['NODE']
    assert name == '/vehicle/alpamayo'
    assert {**anywhere, **named, 'rig': '123', 'device': 'cpu', 'bits': 1.58}.items() <= (
        values.items()
    )
    assert 'RVIZ' not in told


@sourced
def test_without_arguments_the_node_gets_the_defaults_and_no_namespace(tell):
    status, text, told = tell()
    assert status == 0, text
    name, values = told['NODE']
    assert name == '/alpamayo'
    assert {key: values[key] for key in FIELDS} == {
        key: row.default for key, row in FIELDS.items()
    }


@sourced
def test_rviz_starts_when_it_is_asked_for_with_our_layout_in_the_namespace(tell):
    status, text, told = tell('rviz:=true', 'namespace:=vehicle', 'use_sim_time:=true')
    assert status == 0, text
    arguments = told['RVIZ']
    assert Path(arguments[arguments.index('-d') + 1]).read_text().startswith('# RViz')
    assert '/alpamayo/output/path:=/vehicle/alpamayo/output/path' in arguments
    assert '__ns:=/vehicle' in arguments
    assert told['NODE'][1]['use_sim_time'] is True


@sourced
def test_remaps_reach_node_and_rviz(tell):
    pairs = ('odometry:=/loc/odom', '~/output/path:=/plan')
    status, text, told = tell('rviz:=true', 'namespace:=vehicle', f'remaps:={" ".join(pairs)}')
    assert status == 0, text
    assert {'/odometry:=/loc/odom', '/alpamayo/output/path:=/plan'} <= set(told['RVIZ'])


@sourced
@pytest.mark.parametrize(
    'argument, message',
    [
        ('bits:=3', 'Argument "bits" provided value "3" is not valid'),
        ('engine:=other', 'Argument "engine" provided value "other" is not valid'),
        ('log_level:=loud', 'Argument "log_level" provided value "loud" is not valid'),
        ('params_file:=missing.yaml', "params_file: 'missing.yaml' is not a file"),
        ('remaps:=/odometry', "remaps: expected FROM:=TO, got '/odometry'"),
    ],
)
def test_what_is_not_allowed_starts_nothing(tell, argument, message):
    status, text, told = tell(argument)
    assert status == 1
    assert message in text
    assert told == {}


@sourced
def test_a_replay_plays_records_and_ends(installed, tmp_path):
    environment = installed(alpamayo_ros=('alpamayo_node', NODE))
    bag = write(tmp_path / 'drive', drive(4.0))
    status, text = launch(
        'replay.launch.py',
        f'bag:={bag}',
        f'out:={tmp_path / "out"}',
        f'rig:={write_rig(tmp_path)}',
        'engine:=constant_velocity',
        'device:=cpu',
        'rviz:=false',
        'rate:=2.0',
        'finish_s:=1.0',
        environment=environment,
    )
    assert status == 0, text
    with AnyReader([tmp_path / 'out']) as reader:
        seen = [
            (connection.topic, log_ns, reader.deserialize(data, connection.msgtype))
            for connection, log_ns, data in reader.messages()
        ]
    paths = [(log_ns, message) for topic, log_ns, message in seen if topic.endswith('output/path')]
    stamps = {m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for _, m in paths}
    anchors = {START_NS + tick * 100_000_000 for tick in range(15, 41)}
    assert len(paths) == len(stamps) > 10
    assert stamps <= anchors
    assert all(START_NS < log_ns < START_NS + 5 * 10**9 for log_ns, _ in paths)
    assert '/diagnostics' in {topic for topic, _, _ in seen}


@sourced
def test_a_recording_holds_inputs_outputs_and_parameters(installed, tmp_path):
    environment = installed(alpamayo_ros=('alpamayo_node', NODE))
    rig = write_rig(tmp_path)
    bag = write(tmp_path / 'drive', drive(8.0))
    recorder = subprocess.Popen(
        ['ros2', 'launch', 'alpamayo_ros', 'record.launch.py', f'rig:={rig}']
        + [f'out:={tmp_path / "kept"}'],
        env=environment,
    )
    status, text = launch(
        'replay.launch.py',
        f'bag:={bag}',
        f'out:={tmp_path / "out"}',
        f'rig:={rig}',
        'engine:=constant_velocity',
        'rviz:=false',
        'finish_s:=1.0',
        environment=environment,
    )
    recorder.send_signal(signal.SIGINT)
    recorder.wait(20)
    assert status == 0, text
    with AnyReader([tmp_path / 'kept/bag']) as reader:
        assert {'/odometry', '/alpamayo/output/path', '/diagnostics'} <= set(reader.topics)
    kept = yaml.safe_load((tmp_path / 'kept/parameters.yaml').read_text())
    assert kept['/alpamayo']['ros__parameters']['engine'] == 'constant_velocity'


@sourced
@pytest.mark.parametrize('own', [{'seed': 5}, {'seed': 5, 'expired_path': 'trim'}])
def test_a_replay_publishes_late_paths_unless_the_users_file_says_otherwise(tell, tmp_path, own):
    file = tmp_path / 'own.yaml'
    file.write_text(yaml.safe_dump({'/**': {'ros__parameters': own}}))
    arguments = (f'bag:={tmp_path}', f'out:={tmp_path / "out"}', 'rviz:=false')
    status, text, told = tell(*arguments, f'params_file:={file}', file='replay.launch.py')
    assert status == 0, text
    assert {'expired_path': 'publish', 'use_sim_time': True, **own}.items() <= (
        told['NODE'][1].items()
    )


@sourced
def test_a_replay_without_a_model_fails(installed, tmp_path):
    environment = installed(alpamayo_ros=('alpamayo_node', NODE))
    status, text = launch(
        'replay.launch.py',
        f'bag:={write(tmp_path / "drive", drive(2.0))}',
        f'out:={tmp_path / "out"}',
        f'rig:={write_rig(tmp_path)}',
        'checkpoint:=missing/folder/of/nothing',
        'device:=cpu',
        'rviz:=false',
        environment=environment,
    )
    assert status == 1
    assert 'the model could not be loaded' in text
