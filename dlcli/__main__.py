"""The start of the `dlcli` command, and of python -m dlcli."""

import contextlib
import os
import sys


def main() -> None:
    if "_DLCLI_COMPLETE" in os.environ:  # a shell asks at every tab: nothing is imported that is not needed
        from dlcli.cli.completion import complete

        complete()
        return
    from dlcli.cli.main import main

    main()


if __name__ == "__main__":
    # `-m` puts the current folder first in sys.path, where an untrusted file could shadow a library that dlcli imports.
    # A user's own modules are still found: see registry.py.
    with contextlib.suppress(FileNotFoundError):  # the current folder was deleted
        if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
            del sys.path[0]
    main()
