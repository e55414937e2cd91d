"""Nodes and endpoints in the domain: from announcements of nodes and DDS discovery.

Knows no node object. Executors let it take the announcements as they come.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from cyclonedds.builtin import (
    BuiltinDataReader,
    BuiltinTopicDcpsPublication,
    BuiltinTopicDcpsSubscription,
)
from cyclonedds.core import InstanceState, ReadCondition, SampleState, ViewState

from rosless.callback_groups import ReentrantCallbackGroup
from rosless.endpoints import delete
from rosless.held_signals import hold_signals
from rosless.messages import deserialize
from rosless.participant import DISCOVERY_TYPE, Participant
from rosless.qos import QoSProfile, from_dds_qos
from rosless.wire import to_ros_type_name

ALIVE = SampleState.Any | ViewState.Any | InstanceState.Alive
MAX_ENDPOINTS = 100_000
GID_BYTES = 16


class AnnouncedNode(NamedTuple):
    """A node of another process, with the GIDs of its writers."""

    name: str
    namespace: str
    writers: frozenset[bytes]


class TopicEndpointInfo(NamedTuple):
    """Part of rclpy's: the node that an endpoint belongs to; both names are '' if unknown."""

    node_name: str
    node_namespace: str
    topic_type: str
    qos_profile: QoSProfile


class Graph:
    """View of the domain through one participant."""

    def __init__(self, participant: Participant):
        self._participant = participant
        self._announced: dict[bytes, list[AnnouncedNode]] = {}  # participant -> its nodes
        self.callback_group = ReentrantCallbackGroup()
        self.condition = participant.announcements.condition

    def ready(self) -> bool:
        """Whether there are announcements to take."""
        return self._participant.announcements.ready()

    def take(self) -> None:
        """Take the announcements; there is no callback."""
        while (sample := self._participant.announcements.take()) is not None:
            info = deserialize(sample.data, DISCOVERY_TYPE)
            gid = info.gid.data.tobytes()[:GID_BYTES]
            entries = info.node_entities_info_seq
            self._announced[gid] = [
                AnnouncedNode(
                    entry.node_name,
                    entry.node_namespace,
                    frozenset(x.data.tobytes()[:GID_BYTES] for x in entry.writer_gid_seq),
                )
                for entry in entries
            ]

    def nodes(self) -> list[tuple[str, str]]:
        """Name and namespace of every node, those of this process first."""
        self.take()
        # the announcement of a process that did not leave stays; its endpoints go with its lease
        present = {e.participant_key.bytes for e in self._list_publications()}
        self._announced = {g: n for g, n in self._announced.items() if g in present}
        found = [(node.name, node.namespace) for node in self._participant.nodes]
        return found + [node[:2] for nodes in self._announced.values() for node in nodes]

    def publisher_count(self, dds_topic: str) -> int:
        """Number of writers of a DDS topic."""
        return sum(e.topic_name == dds_topic for e in self._list_publications())

    def publishers(self, dds_topic: str) -> list[TopicEndpointInfo]:
        """Writers of a DDS topic, each with its node."""
        self.take()
        owners = {gid: names for *names, gids in self._writers() for gid in gids}
        return [
            TopicEndpointInfo(
                *owners.get(endpoint.key.bytes, ('', '')),
                to_ros_type_name(endpoint.type_name) or '',
                from_dds_qos(endpoint.qos),
            )
            for endpoint in self._list_publications()
            if endpoint.topic_name == dds_topic
        ]

    def _writers(self) -> Iterator[tuple[str, str, Any]]:
        for node in self._participant.nodes:
            yield node.name, node.namespace, node.writers
        for nodes in self._announced.values():
            yield from nodes

    def subscription_count(self, dds_topic: str) -> int:
        """Number of readers of a DDS topic."""
        return sum(e.topic_name == dds_topic for e in self._list_subscriptions())

    def topics(self) -> list[tuple[str, list[str]]]:
        """ROS topics with the names of their types."""
        return self._list_named(
            [*self._list_publications(), *self._list_subscriptions()], 'rt', str
        )

    def services(self) -> list[tuple[str, list[str]]]:
        """Services with the names of their types."""
        requests = self._list_named(
            self._list_subscriptions(), 'rq', lambda n: n.removesuffix('Request')
        )
        return [(n, [t.removesuffix('_Request') for t in types]) for n, types in requests]

    def _list_named(
        self, endpoints: list[Any], prefix: str, rename: Callable[[str], str]
    ) -> list[tuple[str, list[str]]]:
        types: dict[str, set[str]] = {}
        for endpoint in endpoints:
            ros_type = to_ros_type_name(endpoint.type_name)
            if endpoint.topic_name.startswith(f'{prefix}/') and ros_type:
                types.setdefault(rename(endpoint.topic_name[2:]), set()).add(ros_type)
        return [(name, sorted(found)) for name, found in sorted(types.items())]

    def _list_publications(self) -> list[Any]:
        return self._list_endpoints(BuiltinTopicDcpsPublication)

    def _list_subscriptions(self) -> list[Any]:
        return self._list_endpoints(BuiltinTopicDcpsSubscription)

    def _list_endpoints(self, topic) -> list[Any]:
        # a reader for each look, since one that stays would keep what is long gone
        reader = BuiltinDataReader(self._participant.dds, topic)
        try:
            with hold_signals():
                return reader.read(MAX_ENDPOINTS, ReadCondition(reader, ALIVE))
        finally:
            delete(reader)
