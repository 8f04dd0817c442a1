"""Engines: how each is started, and what its HTTP port asks for.

sglang      its command line and environment, from the configuration; refuses unfit flags
packages    what its environment has for GPUs, looked at before a model is loaded
keys        the key of an engine's HTTP port
"""
