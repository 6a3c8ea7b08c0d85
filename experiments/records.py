"""Where a number comes from: every record of an experiment holds this."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax


def provenance(module: str, *packages: str) -> dict[str, Any]:
    """Command, commit, device and versions.

    Args:
        module: the experiment, as `python -m` names it.
        packages: distributions whose versions matter, besides JAX and NumPy.
    """
    git = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False)
    versions = ("jax", "jaxlib", "numpy", *packages)
    return {
        "command": f"python -m {module} {shlex.join(sys.argv[1:])}",
        "commit": commit.stdout.strip() if commit.returncode == 0 else None,
        "device": f"{jax.devices()[0].device_kind} ({os.cpu_count()} cores, {processor()})",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in versions},
    }


def processor() -> str:
    """The processor's name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
