"""Sockets: ZeroMQ links with limits and keys. Nothing here knows what a message means.

transport       the two ends of a link: framed messages, size limits, encryption
doorkeeper      which public keys may connect (ZeroMQ's ZAP protocol)
"""
