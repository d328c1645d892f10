"""Memory that the processes of one machine share by name, and that no way of dying leaves behind.

The first process that asks for a name makes the memory, fills it and hands it to all that ask
later, over a socket. On Linux memory (`memfd_create`) and socket (an abstract name) are no files:
the kernel frees both with the last process that has them, `kill -9` included. Who waits for a
process that dies takes its place. Elsewhere each process has a copy of its own. What the bytes
mean is for `in_memory` to say.

    first process   binds the socket -> fills the memory -> sends its descriptor to whoever connects
    any other       connects -> waits for the descriptor -> maps it
"""

import contextlib
import errno
import hashlib
import mmap
import os
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Fill = Callable[[Bytes], None]

_RETRY = 0.02  # seconds between looking for another process again
_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()


class SharedMemory:
    """Some bytes, not to be written to; shared for as long as this object lives."""

    def __init__(self, name: str, size: int, fill: Fill) -> None:
        """Share the memory of this name, or make and fill it.

        Args:
            name: what identifies the content; any string.
            size: bytes, the same in all processes; what stays unwritten costs no memory.
            fill: writes the content into zeros, uint8 [size]; what it raises reaches the caller.
        """
        if hasattr(os, "memfd_create"):
            self.content = self._shared(_address(name), size, fill)
        else:
            self.content = np.zeros(size, np.uint8)
            fill(self.content)

    def _shared(self, address: str, size: int, fill: Fill) -> Bytes:
        while True:
            server = _bind(address)
            if server is not None:
                return self._made(server, size, fill)
            descriptor = _ask(address)
            if descriptor is not None:
                try:
                    return _mapped(descriptor, size)
                finally:
                    os.close(descriptor)
            time.sleep(_RETRY)  # the other died, failed, or does not listen yet

    def _made(self, server: socket.socket, size: int, fill: Fill) -> Bytes:
        descriptor = os.memfd_create("tokenstore", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            fill(np.frombuffer(mmap.mmap(descriptor, size), np.uint8))
            content = _mapped(descriptor, size)
        except BaseException:
            _stop(server, descriptor)
            raise
        thread = threading.Thread(target=_serve, args=(server, descriptor), daemon=True)
        thread.start()
        weakref.finalize(self, _stop, server, descriptor, thread)
        return content


def memory_left() -> int:
    """Bytes that programs of this machine may still take, within the limit of a container."""
    left = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    machine, container = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if machine.exists():
        lines = dict(line.split(":", 1) for line in machine.read_text().splitlines())
        left = min(left, 1024 * int(lines["MemAvailable"].split()[0]))
    if container.exists() and (limit := container.read_text().strip()).isdigit():
        left = min(left, int(limit))
    return left


def _mapped(descriptor: int, size: int) -> Bytes:
    """The shared pages; a write would go to a page of one's own.

    Numba compiles anew for arrays that cannot be written to, so they look as if they could.
    """
    return np.frombuffer(mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY), np.uint8)


def _address(name: str) -> str:
    """A name of the abstract namespace, one a user; it may have 107 bytes."""
    return f"\0tokenstore-{os.getuid()}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def _bind(address: str) -> socket.socket | None:
    """A listening socket, or None where another process has the address."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.bind(address)
        server.listen(1024)
    except OSError as error:
        server.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    _sockets.add(server)
    return server


def _ask(address: str) -> int | None:
    """The memory's descriptor, as soon as it is filled; None where nobody will give it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(address)
            if not _same_user(client):
                return None
            descriptors = socket.recv_fds(client, 1, 1)[1]
        except OSError:
            return None
    return descriptors[0] if descriptors else None


def _serve(server: socket.socket, descriptor: int) -> None:
    """Hand the memory out until the socket is shut."""
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        with client, contextlib.suppress(OSError):  # a client that has died meanwhile
            if _same_user(client):
                socket.send_fds(client, [b"m"], [descriptor])


def _same_user(peer: socket.socket) -> bool:
    """Abstract names have no permissions: anybody could connect, or listen first."""
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1]) == os.getuid()


def _stop(server: socket.socket, descriptor: int, thread: threading.Thread | None = None) -> None:
    with contextlib.suppress(OSError):  # closed already in a forked child
        server.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
    server.close()
    with contextlib.suppress(OSError):
        os.close(descriptor)
    # A thread that runs on while the interpreter ends is killed by it, at times with the process.
    if thread is not None and thread is not threading.current_thread():
        thread.join()


def _forget_sockets() -> None:
    """A forked child serves nobody; with the socket open, others would wait for it in vain."""
    for server in list(_sockets):
        server.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_sockets)
