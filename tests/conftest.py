"""Fixtures for all tests: the lab (hosts, chains, agents) is a plugin of its own."""

pytest_plugins = ["lab.fixtures"]
