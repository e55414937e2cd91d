"""rclpy.qos: quality-of-service profiles, and the DDS policies that they stand for.

Knows no entity. Incompatible profiles are found by DDS when two endpoints meet.
"""

from enum import Enum, IntEnum

from cyclonedds.qos import Policy, Qos

from rosless.duration import Duration, Infinite

# A longer write would hold the GIL, and with it every Python thread, until the reader
# answers or its lease ends; the time takes no part in matching.
MAX_BLOCKING_NS = 100_000_000


class InvalidQoSProfileException(Exception):
    """The arguments of a QoSProfile contradict each other."""


class HistoryPolicy(IntEnum):
    """How many samples are kept."""

    SYSTEM_DEFAULT = 0
    KEEP_LAST = 1
    KEEP_ALL = 2
    UNKNOWN = 3


class ReliabilityPolicy(IntEnum):
    """Whether lost samples are sent again."""

    SYSTEM_DEFAULT = 0
    RELIABLE = 1
    BEST_EFFORT = 2
    UNKNOWN = 3


class DurabilityPolicy(IntEnum):
    """Whether late readers get earlier samples."""

    SYSTEM_DEFAULT = 0
    TRANSIENT_LOCAL = 1
    VOLATILE = 2
    UNKNOWN = 3


class LivelinessPolicy(IntEnum):
    """Who asserts that a writer is alive."""

    SYSTEM_DEFAULT = 0
    AUTOMATIC = 1
    MANUAL_BY_TOPIC = 3
    UNKNOWN = 4


class QoSPolicyKind(IntEnum):
    """Names of the policies, as in `qos_overrides` parameters and events."""

    INVALID = 1
    DURABILITY = 2
    DEADLINE = 4
    LIVELINESS = 8
    RELIABILITY = 16
    HISTORY = 32
    LIFESPAN = 64
    DEPTH = 128
    LIVELINESS_LEASE_DURATION = 256
    AVOID_ROS_NAMESPACE_CONVENTIONS = 512


QoSHistoryPolicy = HistoryPolicy
QoSReliabilityPolicy = ReliabilityPolicy
QoSDurabilityPolicy = DurabilityPolicy
QoSLivelinessPolicy = LivelinessPolicy


class QoSProfile:
    """Policies of an endpoint; `depth` or `history` has to be given.

    Raises:
        InvalidQoSProfileException: neither, or KEEP_LAST without a depth.
    """

    def __init__(
        self,
        *,
        history: HistoryPolicy | None = None,
        depth: int | None = None,
        reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE,
        durability: DurabilityPolicy = DurabilityPolicy.VOLATILE,
        lifespan: Duration | None = None,
        deadline: Duration | None = None,
        liveliness: LivelinessPolicy = LivelinessPolicy.SYSTEM_DEFAULT,
        liveliness_lease_duration: Duration | None = None,
        avoid_ros_namespace_conventions: bool = False,
    ):
        if history is None and depth is None:
            raise InvalidQoSProfileException('a QoSProfile needs a depth or a history')
        if history == HistoryPolicy.KEEP_LAST and depth is None:
            raise InvalidQoSProfileException('history KEEP_LAST needs a depth')
        if depth is not None and depth < 0:
            raise ValueError(f'depth is not negative: {depth}')
        self.history = HistoryPolicy(HistoryPolicy.KEEP_LAST if history is None else history)
        self.depth = 10 if depth is None else depth
        self.reliability = ReliabilityPolicy(reliability)
        self.durability = DurabilityPolicy(durability)
        self.lifespan = lifespan or Duration()
        self.deadline = deadline or Duration()
        self.liveliness = LivelinessPolicy(liveliness)
        self.liveliness_lease_duration = liveliness_lease_duration or Duration()
        self.avoid_ros_namespace_conventions = avoid_ros_namespace_conventions

    def __eq__(self, other):
        return isinstance(other, QoSProfile) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self):
        return f'QoSProfile({", ".join(f"{k}={v!r}" for k, v in vars(self).items())})'


def to_dds_qos(profile: QoSProfile, user_data: str = '') -> Qos:
    """DDS policies of a profile, for a reader as for a writer; `user_data` carries the hash."""
    history = (
        Policy.History.KeepAll
        if profile.history == HistoryPolicy.KEEP_ALL
        else Policy.History.KeepLast(max(profile.depth, 1))
    )
    policies = [
        history,
        Policy.WriterDataLifecycle(autodispose=False),
        Policy.DataRepresentation(use_cdrv0_representation=True),
    ]
    if profile.reliability == ReliabilityPolicy.BEST_EFFORT:
        policies.append(Policy.Reliability.BestEffort)
    elif profile.reliability == ReliabilityPolicy.RELIABLE:
        policies.append(Policy.Reliability.Reliable(MAX_BLOCKING_NS))
    if profile.durability == DurabilityPolicy.TRANSIENT_LOCAL:
        # without the service a late reader gets one sample, whatever the depth
        service = Policy.DurabilityService(0, history, -1, -1, -1)
        policies += [Policy.Durability.TransientLocal, service]
    else:
        policies.append(Policy.Durability.Volatile)
    if _is_set(profile.lifespan):
        policies.append(Policy.Lifespan(profile.lifespan.nanoseconds))
    if _is_set(profile.deadline):
        policies.append(Policy.Deadline(profile.deadline.nanoseconds))
    lease = profile.liveliness_lease_duration
    lease_ns = lease.nanoseconds if _is_set(lease) else Infinite.nanoseconds
    if profile.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC:
        policies.append(Policy.Liveliness.ManualByTopic(lease_ns))
    else:
        policies.append(Policy.Liveliness.Automatic(lease_ns))
    if user_data:
        policies.append(Policy.Userdata(user_data.encode()))
    return Qos(*policies)


def from_dds_qos(qos: Qos) -> QoSProfile:
    """Profile of an endpoint that discovery has found; depth and lifespan are not known there."""
    profile = QoSProfile(
        depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE
    )
    for policy in qos:
        if policy == Policy.Reliability.BestEffort:
            profile.reliability = ReliabilityPolicy.BEST_EFFORT
        elif policy == Policy.Durability.TransientLocal:
            profile.durability = DurabilityPolicy.TRANSIENT_LOCAL
        elif isinstance(policy, Policy.Deadline):
            profile.deadline = Duration(nanoseconds=policy.deadline)
    return profile


class QoSCompatibility(IntEnum):
    """Whether a subscription hears a publisher."""

    OK = 0
    WARNING = 1
    ERROR = 2


def qos_check_compatible(
    publisher_qos: QoSProfile, subscription_qos: QoSProfile
) -> tuple[QoSCompatibility, str]:
    """Whether two profiles fit, and what does not: reliability, durability and deadline."""
    offered, wanted, found = publisher_qos, subscription_qos, []
    if (offered.reliability, wanted.reliability) == (
        ReliabilityPolicy.BEST_EFFORT,
        ReliabilityPolicy.RELIABLE,
    ):
        found.append('ERROR: Best effort publisher and reliable subscription;')
    if (offered.durability, wanted.durability) == (
        DurabilityPolicy.VOLATILE,
        DurabilityPolicy.TRANSIENT_LOCAL,
    ):
        found.append('ERROR: Volatile publisher and transient local subscription;')
    if _is_set(wanted.deadline):
        if not _is_set(offered.deadline):
            found.append('ERROR: Subscription has a deadline, but publisher does not;')
        elif offered.deadline > wanted.deadline:
            found.append('ERROR: Subscription deadline is less than publisher deadline;')
    return QoSCompatibility.ERROR if found else QoSCompatibility.OK, ''.join(found)


def _is_set(duration: Duration) -> bool:
    return 0 < duration.nanoseconds < Infinite.nanoseconds


qos_profile_default = QoSProfile(depth=10)
qos_profile_system_default = QoSProfile(
    history=HistoryPolicy.SYSTEM_DEFAULT,
    reliability=ReliabilityPolicy.SYSTEM_DEFAULT,
    durability=DurabilityPolicy.SYSTEM_DEFAULT,
)
qos_profile_sensor_data = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
qos_profile_services_default = QoSProfile(depth=10)
qos_profile_parameters = QoSProfile(depth=1000)
qos_profile_parameter_events = QoSProfile(depth=1000)


class QoSPresetProfiles(Enum):
    """The named profiles; `.value` is a QoSProfile."""

    DEFAULT = qos_profile_default
    SYSTEM_DEFAULT = qos_profile_system_default
    SENSOR_DATA = qos_profile_sensor_data
    SERVICES_DEFAULT = qos_profile_services_default
    PARAMETERS = qos_profile_parameters
    PARAMETER_EVENTS = qos_profile_parameter_events
