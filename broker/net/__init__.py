"""Sockets: ZeroMQ links with limits and keys. Nothing here knows what a message means.

transport       the two ends of a link: framed messages, size limits, encryption
zap             which public keys may connect, and as what role (ZeroMQ's ZAP)
"""
