"""Runs `devices.py`, which needs 8 virtual CPU devices, in a process that has them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_on_eight_devices():
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "devices.py"],
        cwd=Path(__file__).parent,
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
