"""``selftrans check-gpu``."""

import sys
from pathlib import Path

import click

from selftrans.cli.options import FILE, WholeNumber, check_output, device_option
from selftrans.runtime.devices import DeviceName

EXIT_FAILED = 1


@click.command(
    epilog="""Examples:

    \b
      selftrans check-gpu
      selftrans check-gpu --only numerics --only measures"""
)
@click.option(
    "--output",
    "-o",
    type=FILE,
    default=Path("results/gpu-check.json"),
    show_default=True,
    help="results (.json), to which this machine's are added; a page (.md) goes beside it",
)
@device_option
@click.option(
    "--processes",
    type=WholeNumber(1),
    help="processes that share a training  [default: one for each GPU, 2 on a CPU]",
)
@click.option("--weights", type=FILE, help="Inception's weights  [default: in the cache]")
@click.option(
    "--miniature",
    is_flag=True,
    help="of tiny networks, in a minute, also on a GPU; their speeds mean nothing",
)
@click.option("--only", multiple=True, metavar="GROUP", help="a group of checks (may be repeated)")
def check_gpu(
    output: Path,
    device: DeviceName,
    processes: int | None,
    weights: Path | None,
    miniature: bool,
    only: tuple[str, ...],
) -> None:
    """Check what must hold on this machine's GPUs, and measure what they reach.

    Takes at most 20 minutes. Prints a line for each check; one that fails is named, and the others
    are made. On a CPU, all of it in
    miniature.
    """
    check_output(output, weights, suffix=".json")

    from selftrans.gpu_check.run import check_machine

    outcomes = check_machine(
        output,
        device=device,
        processes=processes,
        inception=weights,
        in_miniature=miniature,
        only=only,
    )
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    print(f"{output}, {output.with_suffix('.md')}: {len(outcomes)} checks, {len(failed)} failed")
    for outcome in failed:
        print(outcome.line(), file=sys.stderr)
    if failed:
        sys.exit(EXIT_FAILED)


COMMANDS = {"check-gpu": check_gpu}
