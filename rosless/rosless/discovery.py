"""Configuration of Cyclone DDS that ROS 2 derives from its own environment variables.

It stands in front of CYCLONEDDS_URI, so the user's own settings win.
"""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from xml.sax.saxutils import quoteattr

from rosless.definitions import get_distro
from rosless.rcl_error import RCLError

URI = 'CYCLONEDDS_URI'
RANGES = ('SUBNET', 'LOCALHOST', 'SYSTEM_DEFAULT')
MAX_PARTICIPANTS = 32
LOOPBACK = '<Interfaces><NetworkInterface address="127.0.0.1"/></Interfaces>'
# A writer that is deleted waits for readers that do not answer, one writer after the other. With
# the default of 1 s a node of 8 publishers took 8.8 s to end after a subscriber had been killed.
LINGER = '<Internal><WriterLingerDuration>50ms</WriterLingerDuration></Internal>'


def make_configuration(environment: dict[str, str]) -> str:
    """XML for the discovery range and the static peers that an environment asks for.

    Raises:
        RCLError: ROS_AUTOMATIC_DISCOVERY_RANGE is none of those that rosless has.
    """
    if get_distro() == 'humble':
        local = environment.get('ROS_LOCALHOST_ONLY') == '1'
        return _build_domain(f'<General>{LOOPBACK}</General>' if local else '')
    wanted = environment.get('ROS_AUTOMATIC_DISCOVERY_RANGE') or 'SUBNET'
    if wanted not in RANGES:
        raise RCLError(f'ROS_AUTOMATIC_DISCOVERY_RANGE={wanted} is not one of {", ".join(RANGES)}')
    if wanted == 'SYSTEM_DEFAULT':
        return _build_domain('')
    peers = [peer for peer in environment.get('ROS_STATIC_PEERS', '').split(';') if peer]
    general = ''
    if wanted == 'LOCALHOST':
        general = '<AllowMulticast>false</AllowMulticast>'
        # What nodes of Jazzy send to localhost arrives on the loopback interface, and Cyclone DDS
        # 11 hears on its interfaces only. Naming one twice is an error.
        if not peers and not environment.get(URI):
            general += LOOPBACK
        general = f'<General>{general}</General>'
        peers.insert(0, 'localhost')
    listed = ''.join(f'<Peer Address={quoteattr(peer)}/>' for peer in peers)
    return _build_domain(
        f'{general}<Discovery><ParticipantIndex>auto</ParticipantIndex>'
        f'<MaxAutoParticipantIndex>{MAX_PARTICIPANTS}</MaxAutoParticipantIndex>'
        f'<Peers>{listed}</Peers></Discovery>'
    )


def _build_domain(settings: str) -> str:
    return f'<CycloneDDS><Domain Id="any">{settings}{LINGER}</Domain></CycloneDDS>'


@contextmanager
def apply_configuration() -> Iterator[None]:
    """Let a participant that is created meanwhile see the configuration."""
    user_settings = os.environ.get(URI)
    os.environ[URI] = ','.join(filter(None, (make_configuration(dict(os.environ)), user_settings)))
    try:
        yield
    finally:
        if user_settings is None:
            del os.environ[URI]
        else:
            os.environ[URI] = user_settings
