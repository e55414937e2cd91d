"""The package as pip and colcon see it; name, version and licence come from package.xml."""

from pathlib import Path
import xml.etree.ElementTree as ElementTree

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
PACKAGE = ElementTree.parse(HERE / 'package.xml').getroot()
NAME = PACKAGE.findtext('name')
MAINTAINER = PACKAGE.find('maintainer')
assert MAINTAINER is not None, 'package.xml: no maintainer'
SHARE = f'share/{NAME}'

NUMBA = 'numba>=0.60,<1'
TRITON = "triton>=3.1; platform_system == 'Linux'"
PYARROW = 'pyarrow>=14'
VIDEO = 'av>=12'
CLIPS = [VIDEO, PYARROW]
COMMANDS = (
    *('node', 'live', 'replay', 'ask', 'drive', 'verify', 'quantize', 'benchmark', 'evaluate'),
    'drive_server',
)


def files(folder: str, pattern: str = '*') -> list[str]:
    """Files of a folder, as paths relative to setup.py."""
    return sorted(
        str(path.relative_to(HERE)) for path in (HERE / folder).glob(pattern) if path.is_file()
    )


def folders(folder: str) -> list[str]:
    """Folders below a folder, as paths relative to setup.py."""
    found = (HERE / folder).rglob('*')
    return sorted(str(path.relative_to(HERE)) for path in found if path.is_dir())


setup(
    name=NAME,
    version=PACKAGE.findtext('version'),
    description=PACKAGE.findtext('description'),
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license=PACKAGE.findtext('license'),
    license_files=['LICENSE'],
    maintainer=MAINTAINER.text,
    maintainer_email=MAINTAINER.get('email'),
    python_requires='>=3.10',
    # config/ is also a folder of the installed package: an unpacked wheel has no share/
    packages=[*find_packages(include=[NAME, f'{NAME}.*']), f'{NAME}.config'],
    package_dir={f'{NAME}.config': 'config'},
    package_data={
        f'{NAME}.config': ['*.yaml', 'rigs/*.yaml'],
        f'{NAME}.report': ['templates/*'],
    },
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (SHARE, ['package.xml']),
        (f'{SHARE}/launch', files('launch')),
        (f'{SHARE}/config', files('config')),
        (f'{SHARE}/config/rigs', files('config/rigs', '*.yaml')),
        *((f'{SHARE}/{folder}', files(folder)) for folder in folders('checkpoints')),
    ],
    # lower bounds are the oldest versions that the tests were run with
    install_requires=[
        'huggingface_hub',  # transformers states the range
        'einops>=0.8',
        'hydra-core>=1.3.1',
        'Jinja2>=3.1',
        'matplotlib>=3.7',
        'numpy>=1.26',
        'omegaconf>=2.3',
        # headless: no window is ever opened, and containers have no GUI libraries
        'opencv-python-headless>=4.9,<5',
        'PyYAML>=6',
        'rosbags>=0.11.7,<0.12',
        # bags/ reads storage files with these; rosbags needs them too
        'apsw',
        "backports.zstd; python_version < '3.14'",
        'lz4',
        'ruamel.yaml',
        'safetensors>=0.4.3',
        'tokenizers',  # transformers states the range
        'torch>=2.5',
        'tqdm>=4.66',
        'transformers>=4.57,<6',
    ],
    extras_require={
        # alpamayo_drive_server: the wire of the simulator AlpaSim
        'alpasim': ['carla-driver-interface>=2.3,<3'],
        # alpamayo_replay --clips: tables and videos of the makers' data set
        'clips': CLIPS,
        # cameras that send H.264 or H.265
        'video': [VIDEO],
        # --cluster: work on many machines; many recordings as one table
        'cluster': [PYARROW, 'ray[client]>=2.60,<3'],
        # the fast path of world/: small pictures on a CPU
        'numba': [NUMBA],
        # the fast paths of kernels/; a CUDA build of torch brings its own
        'triton': [TRITON],
        'test': [
            *CLIPS,
            'mypy',
            NUMBA,
            'optimum-quanto==0.2.7',  # reads what alpamayo_quantize writes
            'pytest>=8,<9',
            'pytest-xdist>=3.7',
            'ruff',
            'setuptools>=64',
            TRITON,
            'types-PyYAML',
        ],
    },
    entry_points={
        'console_scripts': [
            f'alpamayo_{command} = {NAME}.cli.{command}:main' for command in COMMANDS
        ],
    },
)
