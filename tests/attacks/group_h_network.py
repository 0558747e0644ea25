"""H. Network: there is none, not even the host's own loopback."""

from __future__ import annotations

from sandbox_server.jobs import Verdict
from tests.attacks.attack import KIT, Attack, found

_NET = KIT + "import socket\nsocket.setdefaulttimeout(2)\n"
# `ring` leaves sockets that the kernel must look for to see that nobody has them any more.
_RING = """\
import socket
def ring(*held):
    ends = socket.socketpair()
    socket.send_fds(ends[0], [b"x"], [end.fileno() for end in (*ends, *held)])
"""
_UNREACHABLE = ("ENETUNREACH", "EHOSTUNREACH", "ECONNREFUSED", "EADDRNOTAVAIL", "EPERM", "EACCES", "EAFNOSUPPORT")
_NO_FAMILY = ("EAFNOSUPPORT", "EPERM", "EACCES", "EPROTONOSUPPORT")

ATTACKS = (
    Attack(
        "host_loopback",
        _NET
        + """
attempt("four", lambda: socket.create_connection(("127.0.0.1", @TCP_PORT@)))
attempt("any", lambda: socket.create_connection(("0.0.0.0", @TCP_PORT@)))
attempt("six", lambda: socket.create_connection(("::1", @TCP6_PORT@)))
attempt("own", lambda: socket.create_connection(("@ADDRESS@", @TCP_PORT@)))
""",
        Verdict.EXITED,
        (found(four=_UNREACHABLE, any=_UNREACHABLE, six=_UNREACHABLE, own=_UNREACHABLE),),
    ),
    Attack(
        "datagrams",
        _NET
        + """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
for name, to in {"loop": ("127.0.0.1", @UDP_PORT@), "own": ("@ADDRESS@", @UDP_PORT@), "wide": ("255.255.255.255", @UDP_PORT@),
                 "group": ("224.0.0.1", @UDP_PORT@), "dns": ("192.0.2.53", 53)}.items():
    attempt(name, lambda: s.sendto(b"out", to))
""",
        Verdict.EXITED,
        (found(loop=_UNREACHABLE, own=_UNREACHABLE, wide=_UNREACHABLE, group=_UNREACHABLE, dns=_UNREACHABLE),),
    ),
    Attack(
        "metadata_and_beyond",
        _NET
        + """
for n, to in enumerate([("169.254.169.254", 80), ("192.0.2.1", 443), ("10.0.0.1", 22), ("2001:db8::1", 443), ("fe80::1%1", 80)]):
    attempt(f"to{n}", lambda: socket.create_connection(to))
""",
        Verdict.EXITED,
        (found(**{f"to{n}": (*_UNREACHABLE, "EINVAL", "ENODEV") for n in range(5)}),),
    ),
    Attack(
        "names",
        """
import socket
try:
    print(f"found={socket.getaddrinfo('example.org', 80)}")
except OSError as error:
    print(f"found={type(error).__name__}")
""",
        Verdict.EXITED,
        (found(found="gaierror"),),
    ),
    Attack(
        "unix_sockets_of_the_host",
        _NET
        + """
def connect(address):
    socket.socket(socket.AF_UNIX).connect(address)
attempt("path", lambda: connect("@UNIX_PATH@"))
attempt("server", lambda: connect("@SERVER_SOCKET@"))
attempt("abstract", lambda: connect("\\0@ABSTRACT@"))
attempt("datagram", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", "/dev/log"))
""",
        Verdict.EXITED,
        (found(path="ENOENT", server="ENOENT", abstract="ECONNREFUSED", datagram="ENOENT"),),
    ),
    Attack(
        "unix_socket_of_the_run_before",
        _NET + 'attempt("left", lambda: socket.socket(socket.AF_UNIX).connect("\\0@NAME@"))',
        Verdict.EXITED,
        (found(left="ECONNREFUSED"),),
        first="""
import os, socket, time
s = socket.socket(socket.AF_UNIX)
s.bind("\\0@NAME@")
s.listen()
if os.fork() == 0:
    os.setsid()
    time.sleep(60)
""",
    ),
    Attack(
        "sockets_in_a_ring_of_the_run_before",  # sent over each other, they hold each other after all processes are dead
        _NET
        + """
print(f"used={read('/proc/self/net/sockstat').splitlines()[0]}")
print(f"rows={read('/proc/self/net/unix').splitlines()[1:]}")
attempt("stream", lambda: socket.socket(socket.AF_UNIX).connect("\\0@NAME@"))
attempt("datagram", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", "\\0@NAME@-datagram"))
attempt("again", lambda: socket.socket(socket.AF_UNIX).bind("\\0@NAME@"))
attempt("port", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(("0.0.0.0", 4242)))
""",
        Verdict.EXITED,
        (
            found(
                used="sockets: used 0",
                rows="[]",
                stream="ECONNREFUSED",
                datagram="ECONNREFUSED",
                again="None",
                port="None",
            ),
        ),
        first=_RING
        + """
listener, datagram, port = (socket.socket(*kind) for kind in ((1, 1), (1, 2), (2, 2)))
listener.bind("\\0@NAME@")
listener.listen()
datagram.bind("\\0@NAME@-datagram")
port.bind(("0.0.0.0", 4242))
ring(listener, datagram, port)
""",
    ),
    Attack(
        "ring_left_by_a_killed_program",
        _NET
        + """
print(f"used={read('/proc/self/net/sockstat').splitlines()[0]}")
attempt("left", lambda: socket.socket(socket.AF_UNIX).connect("\\0@NAME@"))
""",
        Verdict.EXITED,
        (found(used="sockets: used 0", left="ECONNREFUSED"),),
        first=_RING
        + """
import os, signal
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0@NAME@")
listener.listen()
for _ in range(20):
    ring(listener, *socket.socketpair())
os.kill(os.getpid(), signal.SIGKILL)
""",
    ),
    Attack(
        "memory_in_a_ring_of_the_run_before",  # what it holds is no longer this slot's
        "held = bytearray(90 << 20)\nfor at in range(0, len(held), 4096): held[at] = 1\nprint(f'held={len(held) >> 20}')",
        Verdict.EXITED,
        (found(held="90"),),
        first=_RING
        + """
import os
memory = os.memfd_create("left")
for _ in range(80):
    os.write(memory, bytes(1 << 20))
inner = socket.socketpair()
socket.send_fds(inner[0], [b"x"], [memory])
ring(*inner)
""",
    ),
    Attack(
        "labels_of_flows",  # they would stay for a minute after their program
        _NET
        + """
import struct
label = socket.inet_pton(socket.AF_INET6, "fd00::1") + struct.pack("!I", 0x12345) + struct.pack("=BBHHHI", 0, 255, 1, 60, 60, 0)
attempt("label", lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).setsockopt(41, 32, label))
""",
        Verdict.EXITED,
        (found(label=("EPERM", *_NO_FAMILY)),),
    ),
    Attack(
        "families",
        _NET
        + """
for name, family, kind, protocol in (
    ("raw4", 2, 3, 1), ("raw6", 10, 3, 58), ("ping", 2, 2, 1), ("packet", 17, 3, 3), ("netlink", 16, 3, 0),
    ("netfilter", 16, 3, 12), ("vsock", 40, 1, 0), ("alg", 38, 5, 0), ("bluetooth", 31, 3, 1), ("can", 29, 3, 1),
    ("key", 15, 3, 2), ("xdp", 44, 3, 0), ("rds", 21, 5, 0), ("tipc", 30, 5, 0), ("smc", 43, 1, 0), ("qrtr", 42, 2, 0),
    ("sctp", 2, 1, 132), ("mptcp", 2, 1, 262), ("dccp", 2, 6, 33), ("udplite", 2, 2, 136), ("seqpacket", 1, 5, 0)):
    attempt(name, lambda: socket.socket(family, kind, protocol) and "open")
""",
        Verdict.EXITED,
        (
            found(
                **dict.fromkeys(
                    (
                        "raw4",
                        "raw6",
                        "packet",
                        "netlink",
                        "netfilter",
                        "vsock",
                        "alg",
                        "bluetooth",
                        "can",
                        "key",
                        "xdp",
                        "rds",
                        "tipc",
                        "smc",
                        "qrtr",
                        "sctp",
                        "mptcp",
                        "dccp",
                        "udplite",
                    ),
                    (*_NO_FAMILY, "EINVAL", "ESOCKTNOSUPPORT"),
                )
            ),
        ),
    ),
    Attack(
        "interfaces",
        _NET
        + """
import fcntl, struct
print(f"names={[name for _, name in socket.if_nameindex()] if hasattr(socket, 'if_nameindex') else []}")
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
attempt("up", lambda: fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 1)))
attempt("address", lambda: fcntl.ioctl(s, 0x8916, struct.pack("16sHH4s8x", b"lo", 2, 0, bytes([127, 0, 0, 1]))))
attempt("bridge", lambda: fcntl.ioctl(s, 0x89A0, b"br0\\0"))
""",
        (Verdict.EXITED, Verdict.ERROR),  # listing interfaces needs netlink, which is refused
        (found(up=("EPERM", None), address=("EPERM", None), bridge=("EPERM", None)),),
    ),
    Attack(
        "own_server",  # a program may talk to itself over a socket pair, and its loopback leads nowhere else
        _NET
        + """
a, b = socket.socketpair()
a.send(b"mine")
print(f"pair={b.recv(10)}")
s = socket.socket()
def listen():
    s.bind(("0.0.0.0", @TCP_PORT@))
    s.listen()
    return "bound"
attempt("bind", listen)
""",
        Verdict.EXITED,
        (found(pair="b'mine'"),),
    ),
    Attack(
        "descriptors_sent_out",
        _NET
        + """
import array
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [1]))]
for name, to in (("path", "@UNIX_PATH@"), ("abstract", "\\0@ABSTRACT@")):
    attempt(name, lambda: s.sendmsg([b"x"], rights, 0, to))
for fd in (0, 1, 2):
    attempt(f"through{fd}", lambda: socket.socket(fileno=os.dup(fd)))
""",
        Verdict.EXITED,
        (found(path="ENOENT", abstract="ECONNREFUSED", through0="ENOTSOCK", through1="ENOTSOCK", through2="ENOTSOCK"),),
    ),
    Attack(
        "credentials_forged",
        _NET
        + """
import struct
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
attempt("root", lambda: a.sendmsg([b"x"], [(socket.SOL_SOCKET, 2, struct.pack("3i", 1, 0, 0))]))
""",
        Verdict.EXITED,
        (found(root=("EPERM", "EINVAL")),),
    ),
)
