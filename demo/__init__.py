"""The story that `make demo` plays, inside a world of the lab; started by `scripts/demo.py`.

- `__main__`: the order of the steps, and every way in which they can end.
- `stage`: the chain, the contract and the nodes, and what the steps do with them.
- `admission`, `removal`, `recovery`: the steps; each checks what it says.
- `figures`: what was measured. `screen`: how it is told.
"""
