"""Following the membership contract: providers in, one verified `Membership` out.

Each node reads the chain itself and believes no single answer that it can check::

    rpc, rpc_*, jsonrpc ask a provider (I/O)            calls     what is asked, typed (pure)
    panel               ask all of them at once (I/O)   quorum    when they agree (pure)
    header, contract    decode and check (pure)         verify    logs, fold, proof (pure)
    pages               a snapshot at one block (I/O)   journal   the recent blocks (pure)
    advance             from one block to a newer (I/O)
    follow              `Follower`: start, poll, wait   admin     signed writes, for the CLI only
    providers           the URLs of the settings        revert    why a call was refused (pure, CLI)

`keccak` and `checksum` are the hash and the spelling of addresses that all of them share.
"""
