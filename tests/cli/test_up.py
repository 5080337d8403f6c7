"""`dstack-vpn up` becomes the agent process."""

import json
from pathlib import Path

from cli.command import run


def test_up_becomes_the_agent(tmp_path: Path) -> None:
    """The process is replaced by ``python -m dstack_vpn`` with the same flags and settings."""
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    # Python runs this before anything else; it shows what was executed the second time.
    (shadow / "sitecustomize.py").write_text(
        "import json, os, sys\n"
        "if '-m' in sys.orig_argv:\n"
        "    print(json.dumps([os.getpid(), sys.orig_argv[1:], 'typer' in sys.modules]))\n"
        "    sys.stdout.flush()\n"
        "    os._exit(0)\n"
    )
    settings = tmp_path / "node.env"
    settings.write_text("NODE_ID=node-a\nNETWORK=hardhat\n")
    flags = ["--dry-run", "--reset-state", "--exit-by-signal", "--env-file", str(settings)]
    ended = run("up", *flags, env={"PYTHONPATH": str(shadow)})
    assert ended.code == 0, ended.err
    _, words, loaded = json.loads(ended.out)
    assert words == ["-m", "dstack_vpn", *flags]
    assert not loaded
