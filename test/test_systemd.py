"""What systemd hears from the node, and the unit that starts it."""

import configparser
from pathlib import Path
import shutil
import socket
import subprocess

import pytest

from alpamayo_ros.ros import systemd

UNIT = Path(__file__).parents[1] / 'config/alpamayo.service'


@pytest.mark.parametrize('name', ['{folder}/notify', '@{folder}/notify'])
def test_messages_reach_the_socket_that_systemd_names(tmp_path, monkeypatch, name):
    address = name.format(folder=tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(address.replace('@', '\0'))
        end.settimeout(5.0)
        monkeypatch.setenv('NOTIFY_SOCKET', address)
        for message in (systemd.READY, systemd.ALIVE, 'STATUS=model ready'):
            systemd.notify(message)
            assert end.recv(100) == message.encode()


def test_a_node_without_a_supervisor_goes_on(tmp_path, monkeypatch):
    monkeypatch.delenv('NOTIFY_SOCKET', raising=False)
    systemd.notify(systemd.READY)
    monkeypatch.setenv('NOTIFY_SOCKET', str(tmp_path / 'gone'))
    systemd.notify(systemd.READY)


def test_the_unit_restarts_what_fails_or_hangs_but_not_what_has_bad_parameters():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(UNIT, encoding='utf-8')
    service = unit['Service']
    assert (service['Type'], service['Restart']) == ('notify', 'on-failure')
    assert service['RestartPreventExitStatus'] == '2'
    assert int(service['WatchdogSec']) >= 5  # the node is heard once a second
    assert (service['KillMode'], service['KillSignal']) == ('mixed', 'SIGINT')


@pytest.mark.skipif(not shutil.which('systemd-analyze'), reason='no systemd-analyze')
def test_systemd_understands_every_line_of_the_unit():
    run = subprocess.run(
        ['systemd-analyze', 'verify', '--man=no', UNIT], capture_output=True, text=True
    )
    assert [line for line in run.stderr.splitlines() if UNIT.name in line] == []
