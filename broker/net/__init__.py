"""Sockets: ZeroMQ links with limits and keys. Nothing here knows what a message means.

    transport       the two ends of a link: framed messages, size limits, encryption
    sockets         a ZeroMQ socket in an event loop
    zap             which public keys may connect, and as what role (ZeroMQ's ZAP)

The wire. One request has one reply, and any number may be under way. An envelope is a list of byte
strings:

    client to broker:   request id | frame [| groups]      a DEALER socket
    broker to client:   request id | frame [| groups]      a ROUTER socket, which adds the peer
    frame:              MessagePack map; its first key, "type", names the message (`common.wire`)
    array in a frame:   extension type 1: MessagePack of [dtype, shape, little-endian bytes]

`broker.protocol` has all messages, `common.types` the records inside them. A group travels as the
bytes that the rollout server made of it. A request may be sent again until it is answered: each is
idempotent, or carries what makes a second one harmless (a member's incarnation, a lease's attempt,
a step's batch). A frame is bounded before it is read, by kind of message. One that breaks its
bounds gets an error, and nothing more is read from that connection. No pickle.

What must agree between two processes, and where a difference is refused:

    the wire:        `common.wire.PROTOCOL_VERSION`, at Hello (`broker.service.handshake`)
    the code:        a digest of common/ and broker/ (`common.versions`), at Hello
    what pixels and tokens depend on:  transformers, tokenizers, pillow, torchvision, at Hello
    a group of NCCL: its version, at Hello, between members that push over it
    the run's files: `broker.storage`, when a broker opens a run folder

A change of a message, of a record or of the encoding needs PROTOCOL_VERSION + 1.
tests/common/test_wire.py and tests/broker/net/test_hostile.py hold what is said here.
"""
