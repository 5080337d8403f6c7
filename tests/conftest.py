"""Fixtures for all tests: the lab and the programs in Docker's place are plugins of their own."""

from hypothesis import settings

pytest_plugins = ["lab.fixtures", "deploy.fixtures"]

# Time limits of single examples say more about a busy machine than about the code.
settings.register_profile("dstack-vpn", deadline=None)
settings.load_profile("dstack-vpn")
