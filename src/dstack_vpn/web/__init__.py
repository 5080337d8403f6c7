"""The health endpoints: what a node tells about itself over HTTP, read from its snapshot.

`render` turns a snapshot into plain data (pure), `app` is the starlette application, `server` runs
it inside the agent's event loop. Nothing here asks the chain or the device, or changes anything.
"""
