"""The command line: `python -m benchmarks COMMAND ...`."""

import click

from benchmarks.cost.command import cost
from benchmarks.detector.command import detector
from benchmarks.faults.command import faults
from benchmarks.grid.command import grid
from benchmarks.grid.report import report
from benchmarks.tasks.command import tasks
from benchmarks.train.command import train


@click.group()
def main() -> None:
    """Experiments with salera_optax on real data."""


main.add_command(train)
main.add_command(grid)
main.add_command(cost)
main.add_command(report)
main.add_command(detector)
main.add_command(faults)
main.add_command(tasks)

if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
