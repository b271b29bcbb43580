"""``selftrans completion``."""

import click
from click.shell_completion import get_completion_class

from selftrans.cli.options import OneOf

SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog="""Examples:

    \b
      selftrans completion bash > ~/.local/share/bash-completion/completions/selftrans
      selftrans completion fish > ~/.config/fish/completions/selftrans.fish"""
)
@click.argument("shell", type=OneOf(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes words of this command in a SHELL."""
    kind = get_completion_class(shell)
    assert kind is not None
    print(kind(context.find_root().command, {}, "selftrans", "_SELFTRANS_COMPLETE").source())


COMMANDS = {"completion": completion}
