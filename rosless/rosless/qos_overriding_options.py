"""rclpy.qos_overriding_options: policies of an endpoint that a parameter may change.

Knows no endpoint: a node declares the parameters before it creates one.
"""

from collections.abc import Callable, Iterable
import copy
from typing import Any

from rosless.duration import Duration
from rosless.exceptions import ParameterAlreadyDeclaredException
from rosless.messages import get_message_class
from rosless.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)

QosCallbackResult = get_message_class('rcl_interfaces/msg/SetParametersResult')
ENUMS = {
    QoSPolicyKind.HISTORY: HistoryPolicy,
    QoSPolicyKind.RELIABILITY: ReliabilityPolicy,
    QoSPolicyKind.DURABILITY: DurabilityPolicy,
    QoSPolicyKind.LIVELINESS: LivelinessPolicy,
}


class InvalidQosOverridesError(Exception):
    """The callback of the options refused the resulting profile."""


class QoSOverridingOptions:
    """Which policies may be changed, who checks the result, and an id.

    The id distinguishes endpoints of one topic.
    """

    def __init__(
        self,
        policy_kinds: Iterable[QoSPolicyKind],
        *,
        callback: Callable[[QoSProfile], Any] | None = None,
        entity_id: str | None = None,
    ):
        self.policy_kinds = tuple(policy_kinds)
        self.callback = callback
        self.entity_id = entity_id

    @classmethod
    def with_default_policies(
        cls,
        *,
        callback: Callable[[QoSProfile], Any] | None = None,
        entity_id: str | None = None,
    ) -> 'QoSOverridingOptions':
        """Options for history, depth and reliability."""
        kinds = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY)
        return cls(kinds, callback=callback, entity_id=entity_id)


def apply_overrides(
    node, entity: str, topic: str, profile: QoSProfile, options: QoSOverridingOptions
) -> QoSProfile:
    """Profile with the overrides of the node's parameters, which are declared here.

    Args:
        node: what declares `qos_overrides.<topic>.<entity>[_<id>].<policy>`, read-only.
        entity: 'publisher' or 'subscription'.
        topic: fully qualified name.
        profile: defaults of the parameters; it is not changed.
        options: which policies have a parameter.

    Raises:
        RuntimeError: a parameter names no value of its policy.
        InvalidQosOverridesError: the callback of the options refused the profile.
    """
    changed = copy.copy(profile)
    suffix = '' if options.entity_id is None else f'_{options.entity_id}'
    for kind in options.policy_kinds:
        policy = kind.name.lower()
        if (entity, kind) == ('subscription', QoSPolicyKind.LIFESPAN):
            continue
        name = f'qos_overrides.{topic}.{entity}{suffix}.{policy}'
        descriptor = get_message_class('rcl_interfaces/msg/ParameterDescriptor')(
            description=f'{policy} of the {entity} of {topic}', read_only=True
        )
        default = _to_parameter(getattr(profile, policy))
        try:
            value = node.declare_parameter(name, default, descriptor).value
        except ParameterAlreadyDeclaredException:
            value = node.get_parameter(name).value
        setattr(changed, policy, _from_parameter(kind, value))
    if options.callback is not None:
        result = options.callback(changed)
        if not result.successful:
            raise InvalidQosOverridesError(f'{entity} of {topic}: {result.reason}')
    return changed


def _to_parameter(value: Any) -> Any:
    if isinstance(value, Duration):
        return value.nanoseconds
    return value.name.lower() if hasattr(value, 'name') else value


def _from_parameter(kind: QoSPolicyKind, value: Any) -> Any:
    if kind in ENUMS:
        if value.upper() not in ENUMS[kind].__members__:
            allowed = ', '.join(ENUMS[kind].__members__).lower()
            raise RuntimeError(f'{kind.name.lower()} {value!r} is not one of {allowed}')
        return ENUMS[kind][value.upper()]
    durations = ('LIFESPAN', 'DEADLINE', 'LIVELINESS_LEASE_DURATION')
    return Duration(nanoseconds=value) if kind.name in durations else value
