"""The pure middle: from a membership and a device as seen to the changes it needs.

Nothing in this package reads a clock, a socket, a file or the environment; time and resolved
names arrive as arguments. The flow is ``membership -> access -> plan -> diff``.
"""
