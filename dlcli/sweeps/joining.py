"""Workers that join a sweep from other processes and machines, which share only the folder of runs.

The driver listens on a port, and writes where, with a key, into a file of the sweep's folder that only its user can
read. Who can read it is allowed to join, and has the folder: a worker elsewhere cannot read it.
"""

import contextlib
import os
import queue
import secrets
import socket
import threading
from collections.abc import Iterator
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, Pipe

from dlcli.core.errors import ResourceError, RunError
from dlcli.core.files import write_json
from dlcli.core.reading import read_json
from dlcli.runs.sweeps import Sweep

_FILE = "workers.json"


class Door:
    """Where workers join. bell: readable when `joined` has one."""

    def __init__(self, sweep: Sweep) -> None:
        key = secrets.token_hex(32)
        self._listener = Listener(("", 0), backlog=64, authkey=key.encode())
        self._file = sweep.path / _FILE
        self._joined: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self.bell, self._ring = Pipe(duplex=False)
        address = {"host": socket.gethostname(), "port": self._listener.address[1], "key": key}
        before = os.umask(0o077)
        try:
            write_json(self._file, address)
        finally:
            os.umask(before)
        threading.Thread(target=self._receive, daemon=True).start()

    def joined(self) -> Iterator[Connection]:
        """Those that have joined since it was asked last."""
        while self.bell.poll():
            self.bell.recv_bytes()
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._joined.get_nowait()

    def close(self) -> None:
        self._file.unlink(missing_ok=True)
        self._listener.close()

    def _receive(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except (AuthenticationError, EOFError):  # somebody who does not know the key
                continue
            except OSError:
                if not self._file.exists():
                    return
                continue
            self._joined.put(connection)
            self._ring.send_bytes(b"!")


def join(sweep: Sweep) -> Connection:
    """A connection to the driver of a sweep. RunError (exit 4) if it accepts no workers, ResourceError (exit 6) if it
    cannot be reached from here."""
    try:
        address = read_json(sweep.path / _FILE)
        host, port, key = str(address["host"]), int(address["port"]), str(address["key"]).encode()
    except (RunError, KeyError, TypeError, ValueError):
        raise RunError(
            f"{sweep} waits for no workers: start or resume it with --on workers, in a folder of runs that is shared "
            "with this machine"
        ) from None
    here = ["localhost"] if host == socket.gethostname() else []
    reason = ""
    for name in (*here, host):
        try:
            return Client((name, port), authkey=key)
        except (OSError, EOFError, AuthenticationError) as error:
            reason = str(error)
    raise ResourceError(f"{sweep} is driven on {host}, port {port}, which cannot be reached from here: {reason}")
