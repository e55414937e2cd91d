"""Packaging: imports are declared, every command answers --help, a wheel carries the rigs."""

from importlib.metadata import entry_points, requires, version
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile

import pytest
from source_imports import third_party

# import name -> name on the registry, where they differ
DISTRIBUTIONS = {
    'backports': 'backports.zstd',
    'carla_driver_interface': 'carla-driver-interface',
    'cv2': 'opencv-python-headless',
    'hydra': 'hydra-core',
    'jinja2': 'Jinja2',
    'optimum': 'optimum-quanto',
    'ruamel': 'ruamel.yaml',
    'yaml': 'PyYAML',
}
# import name -> system package that package.xml declares; the others come from pip only
SYSTEM_PACKAGES = {
    'cv2': 'python3-opencv',
    'jinja2': 'python3-jinja2',
    'matplotlib': 'python3-matplotlib',
    'numpy': 'python3-numpy',
    'tqdm': 'python3-tqdm',
    'yaml': 'python3-yaml',
}
# what comes with ROS 2 and from nowhere else; messages are named as 'package/msg/Name'
ROS = {'rclpy'}
INTERFACE = re.compile(r"'([a-z]+_\w+)/(?:msg|srv)/\w+'")
# what runs the launch files, shows the compressed images of the RViz file, and reads our bags
TOOLS = {'ros2launch', 'compressed_image_transport', 'cv_bridge', 'rosbag2_storage_mcap'}
OPTIONAL_INTERFACES = {'autoware_planning_msgs'}  # behind a parameter
OPTIONAL = {
    'av',
    'carla_driver_interface',
    'numba',
    'optimum',
    'pyarrow',
    'ray',
    'triton',
}  # imported where they are there; extras install them
COMMANDS = sorted(e.name for e in entry_points(group='console_scripts') if 'alpamayo' in e.name)


@pytest.fixture(scope='module')
def imports(root, modules):
    """Return the third-party packages that the package imports."""
    return set().union(*(third_party(root, module) for module in modules))


@pytest.fixture(scope='module')
def interfaces(root):
    """Return the packages whose messages and services the live node makes."""
    files = (root / 'alpamayo_ros/ros').rglob('*.py')
    names = {name for file in files for name in INTERFACE.findall(file.read_text('utf-8'))}
    return names - OPTIONAL_INTERFACES


@pytest.fixture(scope='module')
def launched(root):
    """Return the packages that the launch files import and start."""
    found = set(TOOLS)
    for path in (root / 'launch').glob('*.py'):
        text = path.read_text(encoding='utf-8')
        found |= third_party(root, path.relative_to(root))
        found |= set(re.findall(r"package='(\w+)'", text))
        found |= {f'ros2{verb}' for verb in re.findall(r"'ros2', '(\w+)'", text)}
    return found - {'alpamayo_ros'}


@pytest.fixture(scope='module')
def package_xml(root):
    """Return the root element of package.xml."""
    return ElementTree.parse(root / 'package.xml').getroot()


def required(extra):
    """Distribution names that setup.py requires, for use or for one extra."""
    lines = [line for line in requires('alpamayo_ros') if ('extra ==' in line) == extra]
    return {re.match(r'[\w.-]+', line).group() for line in lines}


def test_setup_requires_exactly_what_is_imported(imports):
    needed = {DISTRIBUTIONS.get(name, name) for name in imports - OPTIONAL - ROS}
    assert required(extra=False) == needed
    assert required(extra=True) >= {DISTRIBUTIONS.get(name, name) for name in OPTIONAL}


def test_package_xml_declares_exactly_what_is_imported(imports, interfaces, launched, package_xml):
    tags = ('depend', 'exec_depend')
    declared = [element.text for tag in tags for element in package_xml.iter(tag)]
    # with one named twice colcon takes the package for plain Python, and ROS 2 does not find it
    assert len(declared) == len(set(declared))
    system = {SYSTEM_PACKAGES[name] for name in imports if name in SYSTEM_PACKAGES}
    assert set(declared) == system | (imports & ROS) | interfaces | launched


def test_every_requirement_has_a_pin(root):
    pins = (root / 'constraints.txt').read_text(encoding='utf-8').splitlines()
    pinned = {line.split('==')[0] for line in pins if not line.startswith('#')}
    assert (required(extra=False) | required(extra=True)) - pinned == set()


def test_the_version_is_that_of_package_xml(package_xml):
    assert version('alpamayo_ros') == package_xml.findtext('version')


@pytest.mark.parametrize('name', COMMANDS)
def test_every_command_answers_help(name, capsys):
    main = entry_points(group='console_scripts')[name].load()
    with pytest.raises(SystemExit) as end:
        main(['--help'])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith('usage: ')


def test_a_wheel_holds_the_rigs_and_the_files_that_ros_looks_for(root, tmp_path):
    copy = tmp_path / 'source'
    copy.mkdir()
    listed = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', ':!test']
    names = subprocess.run(listed, cwd=root, check=True, capture_output=True, text=True).stdout
    for name in names.splitlines():
        if (root / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((root / name).read_bytes())
    for name in ('config.json', 'vlm/config.json'):
        (copy / 'checkpoints/any' / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / 'checkpoints/any' / name).write_text('{}')
    build = 'import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])'
    run = subprocess.run(
        [sys.executable, '-c', build, str(tmp_path)], cwd=copy, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.glob('*.whl')
    held = zipfile.ZipFile(wheel).namelist()
    rigs = [path.name for path in (root / 'config/rigs').glob('*.yaml')]
    assert rigs and {f'alpamayo_ros/config/rigs/{rig}' for rig in rigs} <= set(held)
    assert 'alpamayo_ros/report/templates/page.html' in held
    share = {name.split('.data/data/share/')[1] for name in held if '.data/data/share/' in name}
    assert 'ament_index/resource_index/packages/alpamayo_ros' in share
    assert {'alpamayo_ros/package.xml', f'alpamayo_ros/config/rigs/{rigs[0]}'} <= share
    assert {f'alpamayo_ros/checkpoints/any/{x}config.json' for x in ('', 'vlm/')} <= share
    assert not [name for name in held if name.startswith('test')]
    library = installed(wheel, tmp_path / 'prefix')
    find = 'print(*shipped.find_shipped("checkpoints", "/config.json"))'
    code = f'from alpamayo_ros import shipped; {find}'
    environment = {**os.environ, 'PYTHONPATH': str(library)}
    run = [sys.executable, '-c', code]
    result = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert 'any' in result.stdout.split(), result.stderr


def installed(wheel, prefix):
    """Install a wheel; returns the folder to import it from."""
    pip = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-index', '--no-deps']
    subprocess.run([*pip, '--ignore-installed', '--prefix', prefix, wheel], check=True)
    (package,) = prefix.rglob('alpamayo_ros/shipped.py')
    return package.parents[1]
