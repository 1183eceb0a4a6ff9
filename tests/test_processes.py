"""Several processes, as on several hosts: the same run as in one, and across a crash."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import processes
import pytest

SCRIPT = Path(processes.__file__)
DEVICES = 4


def start(folder, count, die=-1):
    """Starts `count` processes that share `DEVICES` devices; only the last one may die."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    devices = f" --xla_force_host_platform_device_count={DEVICES // count}"
    flags = os.environ["XLA_FLAGS"] + devices
    return [
        subprocess.Popen(
            [
                *(sys.executable, str(SCRIPT), str(folder), address, str(count), str(index)),
                str(die if index == count - 1 else -1),
            ],
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(count)
    ]


def finish(started):
    for process in started:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output


@pytest.mark.slow
def test_two_processes_equal_one_also_across_a_crash(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    finish(start(one, count=1))
    first, last = start(two, count=2, die=17)
    last.communicate(timeout=300)
    assert last.returncode < 0
    first.kill()  # it waits for the other, as after the loss of a host
    first.communicate()
    assert not (two / "last.npz").exists()
    finish(start(two, count=2))

    with np.load(one / "last.npz") as expected, np.load(two / "last.npz") as actual:
        explosion = list(processes.EXPLODES_AT)
        assert expected["holds"].tolist() == [processes.NAN_AT, *explosion]
        assert int(actual["first"]) == 15
        assert actual["holds"].tolist() == explosion
        assert expected["alarms"].tolist() == actual["alarms"].tolist() == explosion[-1:]
        for name in processes.SPECS:
            np.testing.assert_allclose(actual[name], expected[name], rtol=1e-6, atol=1e-7)
