"""The process in one DDS domain: its endpoints, and the node information that it publishes.

Knows nodes as names with endpoint ids only, and no callback and no executor.
"""

from dataclasses import dataclass, field
import threading
from typing import Any, TypeVar

from cyclonedds.core import GuardCondition
from cyclonedds.domain import DomainParticipant
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
import numpy as np

from rosless.definitions import compute_type_hash
from rosless.discovery import apply_configuration
from rosless.endpoints import DdsTopic, Reader, Writer, delete
from rosless.messages import get_message_class, serialize
from rosless.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, to_dds_qos
from rosless.waitset import TriggerWaitSet
from rosless.wire import make_sample_type

DISCOVERY_TOPIC = 'ros_discovery_info'
DISCOVERY_TYPE = 'rmw_dds_common/msg/ParticipantEntitiesInfo'


@dataclass(eq=False)
class NodeRecord:
    """What the graph knows of one node."""

    name: str
    namespace: str
    readers: list[bytes] = field(default_factory=list)
    writers: list[bytes] = field(default_factory=list)


Endpoint = TypeVar('Endpoint', Reader, Writer)


class Participant:
    """A DDS participant that graph tools show as the nodes registered with it."""

    def __init__(self, domain_id: int, enclave: str = '/'):
        user_data = Policy.Userdata(f'enclave={enclave};'.encode())
        with apply_configuration():
            self.dds = DomainParticipant(domain_id, Qos(user_data))
        self._topics: dict[DdsTopic, Topic] = {}
        self._nodes: list[NodeRecord] = []
        self._lock = threading.Lock()
        self._endpoint_count = 0
        self._left = False
        latched: dict[str, Any] = {'durability': DurabilityPolicy.TRANSIENT_LOCAL}
        topic = self._join(DdsTopic(DISCOVERY_TOPIC, DISCOVERY_TYPE))
        mark = _format_hash_entry(DISCOVERY_TYPE)
        last = QoSProfile(depth=1, **latched)
        outgoing = Qos(Policy.IgnoreLocal.Participant, base=to_dds_qos(last, mark))
        self._own_announcements = Writer(DataWriter(self.dds, topic, outgoing))
        everything = QoSProfile(history=HistoryPolicy.KEEP_ALL, **latched)
        others = Qos(Policy.IgnoreLocal.Participant, base=to_dds_qos(everything, mark))
        self.announcements = Reader(DataReader(self.dds, topic, others))

    def _join(self, topic: DdsTopic) -> Topic:
        if topic not in self._topics:
            sample_type = make_sample_type(topic.type_name, service=topic.is_service)
            self._topics[topic] = Topic(self.dds, topic.name, sample_type)
        return self._topics[topic]

    def next_endpoint_id(self) -> bytes:
        """16 bytes, unique in the domain, that pair the two endpoints of a service or client."""
        with self._lock:
            self._endpoint_count += 1
            return self.dds.guid.bytes[:12] + self._endpoint_count.to_bytes(4, 'big')

    def create_writer(
        self, node: NodeRecord, topic: DdsTopic, profile: QoSProfile, user_data: str = ''
    ) -> Writer:
        """Writer of a topic for a node; announce it."""
        return self._create(Writer, node.writers, topic, profile, user_data)

    def create_reader(
        self, node: NodeRecord, topic: DdsTopic, profile: QoSProfile, user_data: str = ''
    ) -> Reader:
        """Reader of a topic for a node; announce it."""
        return self._create(Reader, node.readers, topic, profile, user_data)

    def _create(
        self,
        kind: type[Endpoint],
        guids: list[bytes],
        topic: DdsTopic,
        profile: QoSProfile,
        user_data: str,
    ) -> Endpoint:
        qos = to_dds_qos(profile, user_data + _format_hash_entry(topic.type_name))
        with self._lock:
            endpoint = kind(kind.DDS(self.dds, self._join(topic), qos))
            guids.append(endpoint.guid)
            self._announce()
        return endpoint

    def close(self, node: NodeRecord, *endpoints: Reader | Writer) -> None:
        """Delete endpoints of a node; announce it."""
        with self._lock:
            for endpoint in endpoints:
                owned = node.readers if isinstance(endpoint, Reader) else node.writers
                owned.remove(endpoint.guid)
                endpoint.close()
            self._announce()

    def create_guard(self) -> GuardCondition:
        """Guard condition, which any thread may set."""
        return GuardCondition(self.dds)

    def create_waitset(self) -> TriggerWaitSet:
        """Empty wait set."""
        return TriggerWaitSet(self.dds)

    def add_node(self, name: str, namespace: str) -> NodeRecord:
        """Register a node; announce it."""
        node = NodeRecord(name, namespace)
        with self._lock:
            self._nodes.append(node)
            self._announce()
        return node

    def remove_node(self, node: NodeRecord) -> None:
        """Unregister a node whose endpoints are closed; announce it."""
        with self._lock:
            if not self._left:
                self._nodes.remove(node)
                self._announce()

    @property
    def nodes(self) -> list[NodeRecord]:
        """Nodes of this process."""
        return list(self._nodes)

    def leave(self) -> None:
        """Tell that there are no nodes any more and delete the participant, once.

        Without it the nodes stay in the graph until the lease ends, 10 s: neither the binding
        nor the end of the interpreter deletes a participant.
        """
        with self._lock:
            if self._left:
                return
            self._nodes.clear()
            self._announce()
            self._left = True
            delete(self.dds)

    def _announce(self) -> None:
        if self._left:
            return
        info = get_message_class(DISCOVERY_TYPE)(gid=_make_gid(self.dds.guid.bytes))
        entities = get_message_class('rmw_dds_common/msg/NodeEntitiesInfo')
        for node in self._nodes:
            info.node_entities_info_seq.append(
                entities(
                    node_namespace=node.namespace,
                    node_name=node.name,
                    reader_gid_seq=[_make_gid(guid) for guid in node.readers],
                    writer_gid_seq=[_make_gid(guid) for guid in node.writers],
                )
            )
        self._own_announcements.write(serialize(info))


def _make_gid(guid: bytes):
    message = get_message_class('rmw_dds_common/msg/Gid')()
    # 16 bytes in Jazzy; 24 in Humble, the last 8 of them zero
    message.data = np.frombuffer(guid.ljust(len(message.data), b'\0'), np.uint8)
    return message


def _format_hash_entry(type_name: str) -> str:
    found = compute_type_hash(type_name)
    return f'typehash={found};' if found else ''
