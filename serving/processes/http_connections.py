"""The open connections of one HTTP service, by peer: who may open another, and which connection has to go for it."""

from ipaddress import IPv6Address, IPv6Network
from typing import NamedTuple, Protocol

IPV6_NETWORK = 64  # bits that a provider gives to one customer
MAX_ADDRESS = 45  # characters


class Closable(Protocol):
    """A connection that can be ended at once."""

    def abort(self) -> None: ...


class Peer(NamedTuple):
    """The connections of one peer. `waiting` is ordered: the first has waited for longest for bytes of the peer."""

    name: str
    open: set[Closable]
    waiting: dict[Closable, None]


class OpenConnections:
    """At most `at_most` connections, `per_peer` of one peer.

    A new connection replaces the one that has waited for longest for its peer: an idle one, half a head, half a body. At the
    peer's limit it is one of the same peer, at the limit of the service one of the peer that has most. A request that is being
    answered is never ended.
    """

    def __init__(self, at_most: int, per_peer: int) -> None:
        self._at_most, self._per_peer = at_most, per_peer
        self._peers: dict[str, Peer] = {}
        self._peer_of: dict[Closable, Peer] = {}

    def __len__(self) -> int:
        return len(self._peer_of)

    def admit(self, connection: Closable, address: str) -> bool:
        """Count a new connection, which waits for its peer; return False when there is no place for it."""
        name = peer_name(address)
        peer = self._peers.get(name)
        if peer and len(peer.open) >= self._per_peer and not self._make_place(peer):
            return False
        if len(self) >= self._at_most and not self._make_place(max(self._peers.values(), key=_size)):
            return False
        peer = self._peers.setdefault(name, Peer(name, set(), {}))
        peer.open.add(connection)
        self._peer_of[connection] = peer
        self.wait(connection)
        return True

    def wait(self, connection: Closable) -> None:
        """Record that the connection waits for bytes of its peer from now on."""
        if peer := self._peer_of.get(connection):
            peer.waiting[connection] = None

    def work(self, connection: Closable) -> None:
        """Record that a whole request of the connection is being answered."""
        if peer := self._peer_of.get(connection):
            peer.waiting.pop(connection, None)

    def remove(self, connection: Closable) -> None:
        """Forget a connection that has ended."""
        peer = self._peer_of.pop(connection, None)
        if peer is None:
            return
        peer.open.discard(connection)
        peer.waiting.pop(connection, None)
        if not peer.open:
            del self._peers[peer.name]

    def _make_place(self, peer: Peer) -> bool:
        """End the connection of the peer that has waited for longest; return False when none waits."""
        longest = next(iter(peer.waiting), None)
        if longest is None:
            return False
        self.remove(longest)
        longest.abort()
        return True


def peer_name(address: str) -> str:
    """Return what stands for a peer: an IPv4 address, or the network of an IPv6 address."""
    if ":" not in address:
        return address
    try:
        parsed = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address[:MAX_ADDRESS]
    if parsed.ipv4_mapped:  # from a socket that takes both families
        return str(parsed.ipv4_mapped)
    return str(IPv6Network((parsed, IPV6_NETWORK), strict=False).network_address)


def _size(peer: Peer) -> int:
    return len(peer.open)
