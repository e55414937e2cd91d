"""Publishers and subscriptions with the node's QoS, which parameters `qos_overrides.*` change.

Knows no message and no pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    QoSCompatibility,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

from .messages import import_interface
from .publishing.stamped_prediction import HORIZON_NS

LIFESPAN = Duration(nanoseconds=HORIZON_NS)  # an older message is about the past
OVERRIDABLE = (
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
    QoSPolicyKind.DEADLINE,
    QoSPolicyKind.LIFESPAN,
    QoSPolicyKind.LIVELINESS,
    QoSPolicyKind.LIVELINESS_LEASE_DURATION,
)


def create_output(
    node: Node, topic: str, type_name: str, depth: int = 1, deadline_s: float | None = None
) -> Any:
    """Reliable publisher of a topic below the node's name.

    deadline_s: longest time between two messages that the node promises.
    """
    profile = QoSProfile(depth=depth, lifespan=LIFESPAN)
    if deadline_s is not None:
        profile.deadline = Duration(seconds=deadline_s)
    # rclpy's executor waits anew for every event of a publisher with every message that comes,
    # which was a third of the node's work; subscribers still log QoS that does not fit
    silent = PublisherEventCallbacks(use_default_callbacks=False)
    return node.create_publisher(
        import_interface(type_name),
        f'~/{topic}',
        profile,
        event_callbacks=silent,
        qos_overriding_options=QoSOverridingOptions(OVERRIDABLE),
    )


def create_input(
    node: Node,
    topic: str,
    type_name: str,
    receive: Callable[[Any], Any],
    depth: int,
    **options: Any,
) -> Any:
    """Best-effort subscription, which fits every publisher; options are those of rclpy."""
    profile = QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)
    overriding = QoSOverridingOptions(OVERRIDABLE)
    options |= {'qos_overriding_options': overriding}
    return _subscribe(node, topic, type_name, receive, profile, **options)


def create_latched_input(
    node: Node, topic: str, type_name: str, receive: Callable[[Any], Any], depth: int = 1
) -> None:
    """Two subscriptions of a topic, for latched and for other publishers.

    A transient local one gets what a latched publisher has sent before, but nothing from others; a
    best-effort one hears every publisher. A latched message may come twice.
    """
    latched = QoSProfile(depth=depth, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    _subscribe(node, topic, type_name, receive, latched)
    every = QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)
    _subscribe(node, topic, type_name, receive, every)


def describe_misfit(topic: str, infos: Iterable[Any], wanted: QoSProfile) -> str:
    """Sentence about the first publisher of a topic whose QoS does not fit, '' without one.

    infos: of rclpy, about the publishers. wanted: QoS of the subscription.
    """
    for info in infos:
        compatibility, reason = qos_check_compatible(info.qos_profile, wanted)
        if compatibility == QoSCompatibility.ERROR:
            name = name_node(info)
            text = f'{name} publishes {topic} with a QoS that does not fit the subscription'
            return f'{text}, change qos_overrides: {reason.rstrip("; ")}'
    return ''


def name_node(info: Any) -> str:
    """Full name of the node of an endpoint."""
    return f'{info.node_namespace.rstrip("/")}/{info.node_name}'


def _subscribe(
    node: Node,
    topic: str,
    type_name: str,
    receive: Callable[[Any], Any],
    profile: QoSProfile,
    **options: Any,
) -> Any:
    return node.create_subscription(
        import_interface(type_name),
        topic,
        receive,
        profile,
        event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
        **options,
    )
