"""ROS types as data: fields, constants, service types and type hashes of one distribution.

Knows no DDS and no Python message class. The definitions are those of a rosbags typestore; the
service types and some messages, which no typestore holds, are declared here as text.
"""

from functools import cache
import os

from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

# request, response
SERVICES = {
    'std_srvs/srv/Empty': ('', ''),
    'diagnostic_msgs/srv/AddDiagnostics': (
        'string load_namespace',
        'bool success\nstring message',
    ),
    'lifecycle_msgs/srv/ChangeState': ('lifecycle_msgs/Transition transition', 'bool success'),
    'lifecycle_msgs/srv/GetState': ('', 'lifecycle_msgs/State current_state'),
    'lifecycle_msgs/srv/GetAvailableStates': ('', 'lifecycle_msgs/State[] available_states'),
    'lifecycle_msgs/srv/GetAvailableTransitions': (
        '',
        'lifecycle_msgs/TransitionDescription[] available_transitions',
    ),
    'std_srvs/srv/SetBool': ('bool data', 'bool success\nstring message'),
    'std_srvs/srv/Trigger': ('', 'bool success\nstring message'),
    'rcl_interfaces/srv/DescribeParameters': (
        'string[] names',
        'rcl_interfaces/ParameterDescriptor[] descriptors',
    ),
    'rcl_interfaces/srv/GetParameters': (
        'string[] names',
        'rcl_interfaces/ParameterValue[] values',
    ),
    'rcl_interfaces/srv/GetParameterTypes': ('string[] names', 'uint8[] types'),
    'rcl_interfaces/srv/ListParameters': (
        'uint64 DEPTH_RECURSIVE=0\nstring[] prefixes\nuint64 depth',
        'rcl_interfaces/ListParametersResult result',
    ),
    'rcl_interfaces/srv/SetParameters': (
        'rcl_interfaces/Parameter[] parameters',
        'rcl_interfaces/SetParametersResult[] results',
    ),
    'rcl_interfaces/srv/SetParametersAtomically': (
        'rcl_interfaces/Parameter[] parameters',
        'rcl_interfaces/SetParametersResult result',
    ),
}

# of packages that no typestore holds: fields only, as their .msg files state them
MESSAGES = {
    'autoware_vehicle_msgs/msg/VelocityReport': 'std_msgs/Header header\n'
    'float32 longitudinal_velocity\nfloat32 lateral_velocity\nfloat32 heading_rate',
    'ffmpeg_image_transport_msgs/msg/FFMPEGPacket': 'std_msgs/Header header\nint32 width\n'
    'int32 height\nstring encoding\nuint64 pts\nuint8 flags\nbool is_bigendian\nuint8[] data',
    'foxglove_msgs/msg/CompressedVideo': 'builtin_interfaces/Time timestamp\nstring frame_id\n'
    'uint8[] data\nstring format',
    'ackermann_msgs/msg/AckermannDrive': """
        float32 steering_angle
        float32 steering_angle_velocity
        float32 speed
        float32 acceleration
        float32 jerk
    """,
    'ackermann_msgs/msg/AckermannDriveStamped': """
        std_msgs/Header header
        ackermann_msgs/AckermannDrive drive
    """,
    'autoware_planning_msgs/msg/LaneletPrimitive': 'int64 id\nstring primitive_type',
    'autoware_planning_msgs/msg/LaneletSegment': """
        autoware_planning_msgs/LaneletPrimitive preferred_primitive
        autoware_planning_msgs/LaneletPrimitive[] primitives
    """,
    'autoware_planning_msgs/msg/LaneletRoute': """
        std_msgs/Header header
        geometry_msgs/Pose start_pose
        geometry_msgs/Pose goal_pose
        autoware_planning_msgs/LaneletSegment[] segments
        unique_identifier_msgs/UUID uuid
        bool allow_modification
    """,
    'autoware_planning_msgs/msg/TrajectoryPoint': """
        builtin_interfaces/Duration time_from_start
        geometry_msgs/Pose pose
        float32 longitudinal_velocity_mps
        float32 lateral_velocity_mps
        float32 acceleration_mps2
        float32 heading_rate_rps
        float32 front_wheel_angle_rad
        float32 rear_wheel_angle_rad
    """,
    'autoware_planning_msgs/msg/Trajectory': """
        std_msgs/Header header
        autoware_planning_msgs/TrajectoryPoint[] points
    """,
}

# Default values of the .msg files, which the typestores drop: all those of Jazzy's
# common_interfaces and rcl_interfaces that differ from zero.
DEFAULTS = {
    'geometry_msgs/msg/Quaternion': {'w': 1.0},
    'sensor_msgs/msg/NavSatStatus': {'status': -2},
}

# A message without fields has this one on the wire, and no field in Python.
PLACEHOLDER = 'structure_needs_at_least_one_member'


def get_distro() -> str:
    """Name of the ROS distribution whose wire format is spoken: ROS_DISTRO, or jazzy."""
    return os.environ.get('ROS_DISTRO') or 'jazzy'


@cache
def load_typestore() -> Typestore:
    """Typestore of the distribution, with the types that are declared here.

    Raises:
        ValueError: ROS_DISTRO names a distribution without a typestore.
    """
    stores = {s.name.removeprefix('ROS2_').lower(): s for s in Stores if s.name[:5] == 'ROS2_'}
    if get_distro() not in stores:
        raise ValueError(f'ROS_DISTRO={get_distro()} is not one of {", ".join(sorted(stores))}')
    store = get_typestore(stores[get_distro()])
    for name, text in MESSAGES.items():
        store.register(get_types_from_msg(text, name))
    for service, halves in SERVICES.items():
        for half, text in zip(('Request', 'Response'), halves, strict=True):
            name = f'{service}_{half}'
            (parsed,) = get_types_from_msg(text or f'uint8 {PLACEHOLDER}', name).values()
            store.register({name: parsed})
    return store


@cache
def _load_hash_store() -> Typestore:
    """Copy of the typestore in which char is uint8, as in the hashes of ROS 2."""

    def replaced(desc):
        kind, content = desc
        if kind == Nodetype.BASE:
            return (kind, ('uint8', 0)) if content[0] == 'char' else desc
        return desc if kind == Nodetype.NAME else (kind, (replaced(content[0]), content[1]))

    store = Typestore()
    for name, (constants, fields) in load_typestore().fielddefs.items():
        store.fielddefs[name] = (constants, [(field, replaced(desc)) for field, desc in fields])
    return store


@cache
def compute_type_hash(name: str) -> str:
    """RIHS01 hash of a type, '' in Humble, which has none."""
    return '' if get_distro() == 'humble' else _load_hash_store().hash_rihs01(name)
