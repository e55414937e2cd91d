"""rclpy.event_handler: DDS events of an endpoint: matching, deadlines, liveliness.

Knows no node object and no executor. An incompatible profile is logged unless a callback takes
it. The binding has no status condition: the endpoint itself is what an executor waits for.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from cyclonedds.core import DDSStatus

from rosless.endpoints import Reader, Writer
from rosless.logging import Logger
from rosless.qos import QoSPolicyKind

# event name -> DDS status, and the method of the binding that reads it
SUBSCRIPTION_EVENTS = {
    'deadline': (DDSStatus.RequestedDeadlineMissed, 'get_requested_deadline_missed_status'),
    'incompatible_qos': (
        DDSStatus.RequestedIncompatibleQos,
        'get_requested_incompatible_qos_status',
    ),
    'liveliness': (DDSStatus.LivelinessChanged, 'get_liveliness_changed_status'),
    'message_lost': (DDSStatus.SampleLost, 'get_sample_lost_status'),
    'matched': (DDSStatus.SubscriptionMatched, 'get_subscription_matched_status'),
}
PUBLISHER_EVENTS = {
    'deadline': (DDSStatus.OfferedDeadlineMissed, 'get_offered_deadline_missed_status'),
    'incompatible_qos': (DDSStatus.OfferedIncompatibleQos, 'get_offered_incompatible_qos_status'),
    'liveliness': (DDSStatus.LivelinessLost, 'get_liveliness_lost_status'),
    'matched': (DDSStatus.PublicationMatched, 'get_publication_matched_status'),
}
# ids of the DDS specification
POLICY_KINDS = {
    2: QoSPolicyKind.DURABILITY,
    4: QoSPolicyKind.DEADLINE,
    8: QoSPolicyKind.LIVELINESS,
    11: QoSPolicyKind.RELIABILITY,
}


class _EventCallbacks:
    EVENTS: dict[str, tuple[int, str]] = {}

    def __init__(self, *, use_default_callbacks: bool = True, **callbacks: Callable | None):
        if unknown := callbacks.keys() - self.EVENTS.keys():
            raise TypeError(f'{sorted(unknown)} are not among the events {sorted(self.EVENTS)}')
        self.use_default_callbacks = use_default_callbacks
        for event in self.EVENTS:
            setattr(self, event, callbacks.get(event))


class SubscriptionEventCallbacks(_EventCallbacks):
    """Functions for the events of a subscription, each called with a status."""

    EVENTS = SUBSCRIPTION_EVENTS


class PublisherEventCallbacks(_EventCallbacks):
    """Functions for the events of a publisher, each called with a status."""

    EVENTS = PUBLISHER_EVENTS


class EventHandler:
    """The events of one endpoint that have a callback."""

    def __init__(
        self, endpoint: Reader | Writer, callbacks: _EventCallbacks, callback_group, default
    ):
        self.callback_group = callback_group
        self.condition = endpoint.dds
        self._statuses = []
        for event, (status, getter) in callbacks.EVENTS.items():
            callback = getattr(callbacks, event)
            if callback is None and event == 'incompatible_qos':
                callback = default if callbacks.use_default_callbacks else None
            if callback is not None:
                self._statuses.append((status, getattr(endpoint.dds, getter), callback))
        self._mask = sum(status for status, _, _ in self._statuses)
        endpoint.dds.set_status_mask(self._mask)

    def ready(self) -> bool:
        """Whether a status changed."""
        return bool(self._mask and self.condition.get_status_changes() & self._mask)

    def take(self) -> Callable[[], Any] | None:
        """Calls of the callbacks whose status changed, None if none did."""
        changed = self.condition.get_status_changes()
        # reading a status resets it
        calls = [(call, _make_info(get())) for bit, get, call in self._statuses if bit & changed]
        if not calls:
            return None

        def call_back():
            for callback, info in calls:
                callback(info)

        return call_back


def _make_info(status) -> SimpleNamespace:
    info = SimpleNamespace(**{name: getattr(status, name) for name, _ in status._fields_})
    if hasattr(info, 'last_policy_id'):
        info.last_policy_kind = POLICY_KINDS.get(info.last_policy_id, QoSPolicyKind.INVALID)
    return info


# what is found, what it does with a profile, and what follows from a profile that does not fit
WARNINGS = {
    Reader: ('publisher', 'offering', 'No messages will be received from it.'),
    Writer: ('subscription', 'requesting', 'No messages will be sent to it.'),
}


def warn_of_incompatible(endpoint: Reader | Writer, topic: str, logger: Logger) -> Callable:
    """Default callback of an endpoint for a profile on the other side that does not fit."""
    found, verb, outcome = WARNINGS[type(endpoint)]

    def warn(info):
        logger.warning(
            f"New {found} discovered on topic '{topic}', {verb} incompatible QoS. {outcome} "
            f'Last incompatible policy: {info.last_policy_kind.name}'
        )

    return warn
