"""The command `collafuse`: one subcommand per room, loaded when it is called."""

import importlib
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from collafuse.extras import extra_for
from monitoring.errors import CollafuseError

ROOMS = {
    "demo": "collafuse.demo.cli",
    "evaluate": "evaluation.cli",
    "doctor": "collafuse.doctor",
    "plan": "collafuse.plan.cli",
    "backup": "collafuse.backup.cli",
    "deploy": "collafuse.deploy.cli",
    "broker": "broker.cli",
    "worker": "server_worker.cli",
    "edge": "edge_agent.cli",
    "export": "export.cli",
    "monitor": "monitoring.cli",
    "top": "monitoring.top.cli",
    "trace": "monitoring.trace.cli",
}
"""Subcommand → the module whose `app` answers it. Nothing of a room is imported before its subcommand is asked for."""


class LazyRooms(TyperGroup):
    """A group that imports a room only when its name is on the command line."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the order of a first read."""
        return list(ROOMS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The room's own command, imported now."""
        if cmd_name not in ROOMS:
            return None
        command = typer.main.get_command(importlib.import_module(ROOMS[cmd_name]).app)
        command.name = cmd_name
        return command

    def invoke(self, ctx: Any) -> Any:
        """Runs the room. Typer ends an interrupted command without a word, so it is said here."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _fail("interrupted", code=130)


app = typer.Typer(
    cls=LazyRooms,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def collafuse() -> None:
    """Split diffusion over a message queue: devices keep their images and a small head, a server holds the backbone."""


def main() -> None:
    """Run the command; an expected failure is one line on stderr and exit code 1."""
    try:
        app()
    except CollafuseError as error:
        _fail(str(error), code=1)
    except ModuleNotFoundError as error:
        extra = extra_for(error.name or "", next((word for word in sys.argv[1:] if word in ROOMS), None))
        if extra is None:
            raise
        _fail(
            f"this command needs the package {error.name}; install it with: pip install 'collafuse-edge[{extra}]'",
            code=1,
        )
    except KeyboardInterrupt:
        _fail("interrupted", code=130)


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
