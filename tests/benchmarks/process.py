"""Python in a process of its own, until it has ended."""

import os
import subprocess
import sys


def output(*words: str, **environment: str) -> str:
    """What `python WORDS` prints, with this process's environment and `environment`; RuntimeError when it fails."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{done.stderr}")
    return done.stdout
