"""The command line: `python -m benchmarks COMMAND ...`."""

import click

from benchmarks.train_command import train


@click.group()
def main() -> None:
    """Experiments with salera_optax on real data."""


main.add_command(train)

if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
