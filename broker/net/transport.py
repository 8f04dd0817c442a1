"""ZeroMQ under the broker: how envelopes reach the server and its clients.

Server and client know only the two protocols; the simulator of the tests implements them with a
virtual network. An envelope is a list of byte strings: [request id, frame] on a link, with the
peer's identity before it on the server's side.

With keys every connection is encrypted, the client knows its server by its key, and the server lets
in its clients' keys only and knows by the key what each may be. Without keys both ends keep to
loopback, and a client may claim any role.

When packets vanish (a cable, a switch, a lost machine) no end learns that a connection is over: TCP
would try it again after ever longer pauses, long after the network is back, and the other end would
keep it for good. So both ends drop a connection on which data is not acknowledged, or a silent peer
does not answer, for as long as makes a member count as gone. The link then connects anew.
"""

import contextlib
import ctypes
import functools
import ipaddress
import math
from typing import Any, NamedTuple, Protocol

import zmq

from broker.keys import ClientKeys, ServerKeys, client_keys, server_keys
from broker.net.sockets import AsyncSocket
from broker.net.zap import ZapAuthenticator, role_of
from broker.protocol import Role
from common.addresses import is_ipv6, join_address, split_address
from common.config import BrokerSection
from common.errors import ConfigError
from common.network import primary_host

_REQUESTS_A_PEER = 16  # requests that ZeroMQ buffers for each; more of them wait in the peer
_REPLIES_A_PEER = 256  # replies that it buffers for each; more are dropped, and asked for again
_CLOSING_S = 0.5  # seconds for the last replies to leave
_SEAL_BYTES = 64  # room for what encryption adds to a frame (33)
_KEPT_BYTES = 32 * 2**20  # the largest that glibc takes for _M_MMAP_THRESHOLD
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_EVERYWHERE = ("0.0.0.0", "::")  # as ZeroMQ reports a socket that is bound on all interfaces
_SILENCE_S = 20.0  # seconds of silence where no configuration says how many
_CONNECT_S = 2.0  # most seconds for one try to connect
_SCHEME = "tcp://"
_HANDSHAKE_S = 5.0  # a client that connects and says nothing costs a descriptor no longer


class Received(NamedTuple):
    """An envelope as the server gets it."""

    envelope: list[bytes]
    role: Role | None  # what the sender's key stands for; None means that there are no keys


class Listener(Protocol):
    """The server's end of all links."""

    def open(self) -> str:
        """Start to listen. Returns the address; raises ConfigError."""

    async def receive(self) -> Received: ...

    def receive_now(self) -> Received | None:
        """An envelope that is here already, if there is one."""

    async def send(self, envelope: list[bytes]) -> None: ...

    def close(self) -> None: ...


class Link(Protocol):
    """A client's end."""

    def open(self, address: str, max_frame_bytes: int) -> None: ...

    async def receive(self) -> list[bytes]: ...

    async def send(self, envelope: list[bytes]) -> None: ...

    def post(self, envelope: list[bytes]) -> None:
        """Send if there is room; no caller waits for the answer either."""

    def close(self) -> None: ...


class ZmqListener:
    """A ROUTER socket. It drops a connection that sends more than `max_frame_bytes` at once.

    Args:
        keys: None means a plain connection, on loopback only.
        public_host: what clients call this machine; None means the bound host, or the machine's
            primary address when it is bound everywhere.
        silence_s: seconds after which a connection without acknowledgements is dropped.
    """

    def __init__(
        self,
        address: str,
        max_frame_bytes: int,
        keys: ServerKeys | None = None,
        public_host: str | None = None,
        silence_s: float = _SILENCE_S,
    ) -> None:
        self._silence_s = silence_s
        self._address = allowed_address(address, has_keys=keys is not None)
        self._max_frame_bytes = max_frame_bytes
        self._keys = keys
        self._public_host = public_host
        self._authenticator: ZapAuthenticator | None = None

    def open(self) -> str:
        _keep_freed_memory()
        self._context = zmq.Context()
        self._socket = AsyncSocket(self._context, zmq.ROUTER)
        options = self._socket.zmq
        options.setsockopt(zmq.MAXMSGSIZE, self._max_frame_bytes)
        options.setsockopt(zmq.RCVHWM, _REQUESTS_A_PEER)
        options.setsockopt(zmq.SNDHWM, _REPLIES_A_PEER)
        options.setsockopt(zmq.HANDSHAKE_IVL, int(_HANDSHAKE_S * 1000))
        _drop_dead_connections(options, self._silence_s)
        options.setsockopt(zmq.IPV6, is_ipv6(split_address(self._address)[0]))
        if self._keys is not None:
            self._lock(self._keys)
        try:
            options.bind(self._address)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(
                f"broker.address = {self._address}: {error.strerror}. Fix: choose another port, or "
                "0 for a free one, at an address of this machine"
            ) from error
        bound = options.getsockopt_string(zmq.LAST_ENDPOINT)
        return public_address(bound, self._public_host)

    def _lock(self, keys: ServerKeys) -> None:
        self._authenticator = ZapAuthenticator(self._context, keys.public)
        options = self._socket.zmq
        options.setsockopt(zmq.MAXMSGSIZE, self._max_frame_bytes + _SEAL_BYTES)
        options.setsockopt(zmq.CURVE_SERVER, 1)
        options.setsockopt(zmq.CURVE_SECRETKEY, keys.server_secret)
        options.setsockopt(zmq.ZAP_DOMAIN, b"broker")
        options.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without an authenticator no key is let in

    async def receive(self) -> Received:
        return self._received(await self._socket.receive())

    def receive_now(self) -> Received | None:
        try:
            return self._received(self._socket.receive_now())
        except zmq.Again:
            return None

    def _received(self, frames: list[zmq.Frame]) -> Received:
        role = None if self._keys is None else role_of(frames[-1])
        return Received(_parts_of(frames, num_copied=3), role)

    async def send(self, envelope: list[bytes]) -> None:
        await self._socket.send(envelope)

    def close(self) -> None:
        self._socket.close(int(_CLOSING_S * 1000))
        if self._authenticator is not None:
            self._authenticator.close()
        self._context.term()


class ZmqLink:
    """A DEALER socket.

    Args:
        keys: None means a plain connection, on loopback only.
        silence_s: seconds after which a connection without acknowledgements is dropped.
    """

    def __init__(self, keys: ClientKeys | None = None, silence_s: float = _SILENCE_S) -> None:
        self._keys = keys
        self._silence_s = silence_s

    def open(self, address: str, max_frame_bytes: int) -> None:
        allowed = allowed_address(address, has_keys=self._keys is not None)
        _keep_freed_memory()
        self._context = zmq.Context()
        self._socket = AsyncSocket(self._context, zmq.DEALER)
        options = self._socket.zmq
        options.setsockopt(zmq.LINGER, 0)
        options.setsockopt(zmq.MAXMSGSIZE, max_frame_bytes)
        _drop_dead_connections(options, self._silence_s)
        options.setsockopt(zmq.IPV6, is_ipv6(split_address(allowed)[0]))
        connect_s = min(_CONNECT_S, self._silence_s / 4)
        options.setsockopt(zmq.CONNECT_TIMEOUT, int(connect_s * 1000))
        if self._keys is not None:
            self._lock(self._keys, max_frame_bytes)
        try:
            options.connect(allowed)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(
                f"broker.address = {address!r}: {error.strerror}. Fix: tcp://HOST:PORT"
            ) from error

    def _lock(self, keys: ClientKeys, max_frame_bytes: int) -> None:
        options = self._socket.zmq
        options.setsockopt(zmq.MAXMSGSIZE, max_frame_bytes + _SEAL_BYTES)
        options.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        options.setsockopt(zmq.CURVE_PUBLICKEY, zmq.curve_public(keys.secret))
        options.setsockopt(zmq.CURVE_SERVERKEY, keys.server_public)

    async def receive(self) -> list[bytes]:
        return _parts_of(await self._socket.receive(), num_copied=2)

    async def send(self, envelope: list[bytes]) -> None:
        await self._socket.send(envelope)

    def post(self, envelope: list[bytes]) -> None:
        with contextlib.suppress(zmq.Again):
            self._socket.send_now(envelope)

    def close(self) -> None:
        self._socket.close(0)
        self._context.term()


@functools.cache
def _keep_freed_memory() -> None:
    """Let glibc keep the memory of messages for the next ones, where it is glibc.

    It would give it back to the system, which clears every page of it before it returns.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    set_option(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    set_option(_M_MMAP_THRESHOLD, _KEPT_BYTES)


def zmq_listener(config: BrokerSection, address: str) -> ZmqListener:
    """The listener of a broker with this configuration, at `address`.

    Raises:
        ConfigError: the keys are not usable, or are needed and not there.
    """
    keys = None if config.keys is None else server_keys(config.keys)
    return ZmqListener(
        address, config.max_frame_mib * 2**20, keys, config.public_host, config.member_timeout_s
    )


def zmq_link(config: BrokerSection, role: Role) -> ZmqLink:
    """The link of a client with this configuration, which may be made long before it is opened.

    Raises:
        ConfigError: the keys are not usable, or are needed and not there.
    """
    allowed_address(config.address, has_keys=config.keys is not None)
    keys = None if config.keys is None else client_keys(config.keys, role)
    return ZmqLink(keys, config.member_timeout_s)


def _parts_of(frames: list[zmq.Frame], num_copied: int) -> list[Any]:
    """Contents of frames; those behind the first few are looked at where ZeroMQ has put them."""
    parts = [frame.bytes for frame in frames[:num_copied]]
    return [*parts, *(frame.buffer for frame in frames[num_copied:])]


def _drop_dead_connections(socket: zmq.Socket[bytes], silence_s: float) -> None:
    """Let the kernel drop them: to it neither a busy process nor a large frame looks dead."""
    socket.setsockopt(zmq.TCP_MAXRT, int(silence_s * 1000))
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, math.ceil(silence_s / 2))
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, math.ceil(silence_s / 4))


def allowed_address(address: str, *, has_keys: bool) -> str:
    """The address as ZeroMQ takes it. Raises ConfigError off loopback without keys."""
    if not has_keys:
        loopback_only(address)
    return address.replace("//localhost:", "//127.0.0.1:")  # ZeroMQ binds no names


def loopback_only(address: str) -> None:
    """Raise ConfigError off loopback: there a plain socket would talk to strangers."""
    host, port = split_address(address)
    if not address.startswith(_SCHEME) or port is None or not _is_loopback_address(host):
        raise ConfigError(
            f"broker.address = {address!r}: without keys (CURVE) the broker is on loopback only. "
            "Fix: make keys (python -m broker.keys FOLDER) and set broker.keys = FOLDER, or "
            "tcp://127.0.0.1:PORT"
        )


def _is_loopback_address(host: str) -> bool:
    """Whether a host is loopback; the only name is localhost: others may lead elsewhere."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def public_address(bound: str, public_host: str | None) -> str:
    """The address for clients of a socket that is bound to the address `bound`."""
    host, port = split_address(bound)
    if public_host is None and host not in _EVERYWHERE:
        return bound
    assert port is not None, f"{bound} is no bound address"
    return _SCHEME + join_address(public_host or primary_host(), port)
