"""The listening socket a function process takes over."""

from __future__ import annotations

import os
import socket

from shoal.runtime.listener import listen
from shoal.runtime.settings import Settings


def test_an_inherited_socket_is_not_handed_on_to_programs_the_handler_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        descriptor = os.dup(listener.fileno())
        os.set_inheritable(descriptor, True)
        with listen(Settings(listen_fd=descriptor)) as taken:
            assert not os.get_inheritable(taken.fileno())
