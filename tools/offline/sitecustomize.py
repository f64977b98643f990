"""Block the network in this Python process when COURSE_NO_NETWORK is set: every call beyond this machine raises.

Python imports a module of this name at start-up, so a folder on PYTHONPATH reaches child processes and notebook
kernels too. The loopback interface stays open: Jupyter talks to its kernels through it. `tests/conftest.py` uses it.
"""

import ipaddress
import os
import socket

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy")  # a proxy on loopback would be a way out
LOCAL_NAMES = {"", "localhost", "ip6-localhost", "0.0.0.0", "::", "<broadcast>"}


class NetworkBlocked(OSError):
    """The tests of the course run without a network."""


def is_local(host: object) -> bool:
    """Does this host name or address mean this very machine?"""
    name = host.decode() if isinstance(host, bytes) else host
    if name is None or name in LOCAL_NAMES or name == socket.gethostname():
        return True
    try:
        return ipaddress.ip_address(str(name).split("%")[0]).is_loopback
    except ValueError:
        return False


def refuse(what: str, host: object) -> None:
    """Raise NetworkBlocked unless `host` is this machine."""
    if not is_local(host):
        raise NetworkBlocked(f"The network is blocked while the course's tests run: {what} {host!r}.")


def guard_method(name: str) -> None:
    """Make socket.socket.NAME look at the address, its last argument, before it does anything."""
    original = getattr(socket.socket, name)

    def guarded(self, *args):
        if self.family in (socket.AF_INET, socket.AF_INET6) and args and isinstance(args[-1], tuple):
            refuse(name, args[-1][0])
        return original(self, *args)

    setattr(socket.socket, name, guarded)


def guard_lookup(name: str) -> None:
    """Make socket.NAME refuse to ask a name server; addresses in digits need none."""
    original = getattr(socket, name)

    def guarded(host, *args, **kwargs):
        try:
            ipaddress.ip_address(host)
        except ValueError:
            refuse("looking up", host)
        return original(host, *args, **kwargs)

    setattr(socket, name, guarded)


def block() -> None:
    """Close the network for this process and, through the environment, for its children."""
    os.environ["COURSE_NO_NETWORK"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"  # its download helper is compiled and does not use Python's sockets
    for name in PROXIES:
        os.environ.pop(name, None)
        os.environ.pop(name.upper(), None)
    if not getattr(socket, "course_blocked", False):
        socket.course_blocked = True
        for name in ("connect", "connect_ex", "sendto"):
            guard_method(name)
        for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
            guard_lookup(name)


if os.environ.get("COURSE_NO_NETWORK") == "1":
    block()
