"""The socket on which the service listens."""

from __future__ import annotations

import socket

from diffusion.serve.server import listening


def test_answers_are_sent_without_waiting_for_acknowledgements():
    with (
        listening("127.0.0.1", 0) as sock,
        socket.create_connection(sock.getsockname()),
        sock.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
