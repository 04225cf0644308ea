"""What the driver of a sweep and its workers say to each other: JSON over a pipe, so that neither unpickles anything.

To a worker                                     From a worker
    check     layers                                valid, or refused: reason, exit_code
    train     base, settings, seed, run, ...        built: config, fingerprint, steps; or refused
    run       run: its number, or null for none     evaluated: step, steps, best
    goes      prune: why it should not, or null     ended: status, reason, ...
    stop      reason, at any time
"""

import json
from multiprocessing.connection import Connection
from typing import Any


def send(connection: Connection, do: str, **values: Any) -> None:
    connection.send_bytes(json.dumps({"do": do, **values}, allow_nan=False).encode())


def receive(connection: Connection) -> dict[str, Any]:
    """Waits for a message. EOFError if the other side has ended, also in the middle of one."""
    try:
        message: dict[str, Any] = json.loads(connection.recv_bytes())
    except OSError as error:
        raise EOFError from error
    return message
