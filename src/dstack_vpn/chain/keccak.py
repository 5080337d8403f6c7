"""keccak-256, the hash of Ethereum (not SHA3-256, which pads differently).

One place, so that the library behind it can be exchanged: safe-pysha3 is a single C extension,
far lighter in memory than a cryptographic toolbox.
"""

import sha3


def keccak256(data: bytes) -> bytes:
    """Hash bytes to 32 bytes."""
    digest: bytes = sha3.keccak_256(data).digest()
    return digest
