"""Fixtures for all tests: the lab (hosts, chains, agents) is a plugin of its own."""

from hypothesis import settings

pytest_plugins = ["lab.fixtures"]

# Time limits of single examples say more about a busy machine than about the code.
settings.register_profile("dstack-vpn", deadline=None)
settings.load_profile("dstack-vpn")
