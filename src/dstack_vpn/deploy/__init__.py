"""Running nodes as containers: ``dstack-vpn deploy`` and the keeper.

The words, from what is pure to what does the work:

- `containers`: what the engine says of a container, parsed once.
- `keep`: which containers must be started again, and why; `keeper` does it.
- `report`: the table of `deploy status`, from containers and what the nodes say of themselves.
- `loglines`: the logs of several containers as one, in the order of time; `follow` as they come.
- `envfile`: the text of env.example, made from the table of settings.
- `engine`: runs ``docker`` and Compose, whichever is there.
- `project`: the steps of a deployment, each waiting for facts.

The rule of this package: nothing here decides who is a member, and no private key passes through
it.
"""
