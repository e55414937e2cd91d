"""The endpoints of a node: making and destroying publishers, subscriptions, services and timers.

Knows no thread: an executor asks for the `waitables`.
"""

from collections.abc import Callable, Iterator
import threading
from typing import Any

from rosless import names
from rosless.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rosless.client import Client
from rosless.clock import Clock, ROSClock
from rosless.context import Context
from rosless.duration import S_TO_NS
from rosless.endpoints import DdsTopic
from rosless.event_handler import (
    EventHandler,
    PublisherEventCallbacks,
    SubscriptionEventCallbacks,
    warn_of_incompatible,
)
from rosless.logging import Logger
from rosless.names import RemapRule
from rosless.publisher import Publisher
from rosless.qos import QoSProfile, qos_profile_services_default
from rosless.qos_overriding_options import QoSOverridingOptions, apply_overrides
from rosless.service import Service, ServiceEnds
from rosless.subscription import Subscription
from rosless.timer import Timer
from rosless.wire import make_service_topics, make_topic_name


class NodeEndpoints:
    """Base of Node with everything that sends, receives or fires."""

    def __init__(
        self,
        context: Context,
        name: str,
        namespace: str,
        remaps: list[RemapRule],
        logger: Logger,
    ):
        self._context, self._logger = context, logger
        self.__name, self.__namespace, self.__remaps = name, namespace, remaps
        self._clock = ROSClock()
        self.__participant = context.participant
        self.__record = self.__participant.add_node(name, namespace)
        self.__lock = threading.Lock()
        self.__endpoints: dict[Any, tuple] = {}  # entity -> its DDS readers and writers
        # what an executor looks at; replaced when it changes, so that it can be read meanwhile
        self.waitables: tuple[Any, ...] = (context.graph,)
        self.executor: Any = None
        self.__destroyed = False
        self.default_callback_group: CallbackGroup = MutuallyExclusiveCallbackGroup()

    def get_name(self) -> str:
        """Name without the namespace."""
        return self.__name

    def get_namespace(self) -> str:
        """Absolute namespace."""
        return self.__namespace

    def get_fully_qualified_name(self) -> str:
        """Namespace and name."""
        return names.join_name(self.__name, self.__namespace)

    def resolve_topic_name(self, topic: str, *, only_expand: bool = False) -> str:
        """Absolute name of a topic, remapped unless `only_expand`."""
        rules = [] if only_expand else self.__remaps
        return names.remap_name(topic, rules, self.__name, self.__namespace)

    def resolve_service_name(self, service: str, *, only_expand: bool = False) -> str:
        """Absolute name of a service, remapped unless `only_expand`."""
        rules = [] if only_expand else self.__remaps
        return names.remap_name(service, rules, self.__name, self.__namespace, service=True)

    @property
    def services(self) -> Iterator[Service]:
        """Services of the node."""
        return (entity for entity in self.__endpoints if isinstance(entity, Service))

    def create_publisher(
        self,
        msg_type,
        topic: str,
        qos_profile: QoSProfile | int,
        *,
        callback_group: CallbackGroup | None = None,
        event_callbacks: PublisherEventCallbacks | None = None,
        qos_overriding_options: QoSOverridingOptions | None = None,
    ) -> Publisher:
        """Publisher of a topic; `qos_profile` is a profile or a depth."""
        name = self.resolve_topic_name(topic)
        profile = self.__profile('publisher', name, qos_profile, qos_overriding_options)
        writer = self.__participant.create_writer(
            self.__record, _make_dds_topic(name, msg_type, profile), profile
        )
        publisher = Publisher(self._context, writer, msg_type, name, profile)
        events = EventHandler(
            writer,
            event_callbacks or PublisherEventCallbacks(),
            callback_group or self.default_callback_group,
            warn_of_incompatible(writer, name, self._logger),
        )
        publisher.event_handlers.append(events)
        self.__add(publisher, (writer,), events)
        return publisher

    def create_subscription(
        self,
        msg_type,
        topic: str,
        callback: Callable,
        qos_profile: QoSProfile | int,
        *,
        callback_group: CallbackGroup | None = None,
        event_callbacks: SubscriptionEventCallbacks | None = None,
        qos_overriding_options: QoSOverridingOptions | None = None,
        raw: bool = False,
    ) -> Subscription:
        """Subscription of a topic; with `raw` the callback gets CDR bytes."""
        name = self.resolve_topic_name(topic)
        profile = self.__profile('subscription', name, qos_profile, qos_overriding_options)
        group = callback_group or self.default_callback_group
        reader = self.__participant.create_reader(
            self.__record, _make_dds_topic(name, msg_type, profile), profile
        )
        subscription = Subscription(
            reader, msg_type, name, callback, group, profile, raw, self._logger
        )
        events = EventHandler(
            reader,
            event_callbacks or SubscriptionEventCallbacks(),
            group,
            warn_of_incompatible(reader, name, self._logger),
        )
        subscription.event_handlers.append(events)
        self.__add(subscription, (reader,), subscription, events)
        return subscription

    def __profile(self, entity: str, topic: str, profile, options) -> QoSProfile:
        if isinstance(profile, int):
            profile = QoSProfile(depth=profile)
        if not isinstance(profile, QoSProfile):
            raise TypeError(f'expected a QoSProfile or a depth, got {type(profile)}')
        return (
            profile if options is None else apply_overrides(self, entity, topic, profile, options)
        )

    def create_service(
        self,
        srv_type,
        srv_name: str,
        callback: Callable,
        *,
        qos_profile: QoSProfile = qos_profile_services_default,
        callback_group: CallbackGroup | None = None,
    ) -> Service:
        """Service; the callback gets the request and a response to fill and return."""
        ends = self.__connect('service', srv_type, srv_name, qos_profile, callback_group)
        service = Service(ends, callback, self._logger)
        self.__add(service, (ends.reader, ends.writer), service)
        return service

    def create_client(
        self,
        srv_type,
        srv_name: str,
        *,
        qos_profile: QoSProfile = qos_profile_services_default,
        callback_group: CallbackGroup | None = None,
    ) -> Client:
        """Client of a service."""
        ends = self.__connect('client', srv_type, srv_name, qos_profile, callback_group)
        client = Client(ends, self._context)
        self.__add(client, (ends.reader, ends.writer), client)
        return client

    def __connect(self, role: str, srv_type, srv_name: str, profile, group) -> ServiceEnds:
        """Both ends of a service or client, with a mark by which they are known as a pair."""
        name = self.resolve_service_name(srv_name)
        requests, replies = make_service_topics(name)
        request = DdsTopic(requests, srv_type.Request._type, is_service=True)
        reply = DdsTopic(replies, srv_type.Response._type, is_service=True)
        incoming, outgoing = (request, reply) if role == 'service' else (reply, request)
        mark = f'{role}id={_format_id(self.__participant.next_endpoint_id())};'
        reader = self.__participant.create_reader(self.__record, incoming, profile, mark)
        writer = self.__participant.create_writer(self.__record, outgoing, profile, mark)
        group = group or self.default_callback_group
        return ServiceEnds(reader, writer, srv_type, name, group, profile)

    def create_timer(
        self,
        timer_period_sec: float,
        callback: Callable,
        callback_group: CallbackGroup | None = None,
        clock: Clock | None = None,
    ) -> Timer:
        """Timer on a clock, that of the node if none is given."""
        group = callback_group or self.default_callback_group
        timer = Timer(callback, group, int(timer_period_sec * S_TO_NS), clock or self._clock)
        self.__add(timer, (), timer)
        return timer

    def __add(self, entity, endpoints: tuple, *waitables) -> None:
        with self.__lock:
            self.__endpoints[entity] = (*endpoints,)
            self.waitables += waitables
        if self.executor is not None:
            self.executor.wake()

    def __destroy(self, entity) -> bool:
        with self.__lock:
            endpoints = self.__endpoints.pop(entity, None)
            if endpoints is None:
                return False
            gone = (entity, *getattr(entity, 'event_handlers', ()))
            self.waitables = tuple(w for w in self.waitables if w not in gone)
        if self.executor is not None:
            self.executor.forget(entity)  # before DDS deletes what it waits for
        if isinstance(entity, Timer):
            entity.destroy()
        self.__participant.close(self.__record, *endpoints)
        return True

    def destroy_publisher(self, publisher: Publisher) -> bool:
        """Delete a publisher; False if it is not one of this node."""
        return self.__destroy(publisher)

    def destroy_subscription(self, subscription: Subscription) -> bool:
        """Delete a subscription; False if it is not one of this node."""
        return self.__destroy(subscription)

    def destroy_service(self, service: Service) -> bool:
        """Delete a service; False if it is not one of this node."""
        return self.__destroy(service)

    def destroy_client(self, client: Client) -> bool:
        """Delete a client; False if it is not one of this node."""
        return self.__destroy(client)

    def destroy_timer(self, timer: Timer) -> bool:
        """Delete a timer; False if it is not one of this node."""
        return self.__destroy(timer)

    def destroy_node(self) -> None:
        """Delete the node with all that belongs to it; once."""
        if self.__destroyed:
            return
        self.__destroyed = True
        if self.executor is not None:
            self.executor.remove_node(self)
        for entity in list(self.__endpoints):
            self.__destroy(entity)
        self.__participant.remove_node(self.__record)


def _make_dds_topic(name: str, msg_type: Any, profile: QoSProfile) -> DdsTopic:
    plain = profile.avoid_ros_namespace_conventions
    return DdsTopic(name if plain else make_topic_name(name), msg_type._type)


def _format_id(endpoint_id: bytes) -> str:
    return '.'.join(f'{byte:x}' for byte in endpoint_id)
