"""python -m dlcli"""

import contextlib
import os
import sys

if __name__ == "__main__":
    # `-m` puts the current folder before everything, where a stranger's file could pass for a library that one of
    # ours looks for. A user's own modules are found all the same: see registry.py.
    with contextlib.suppress(FileNotFoundError):  # the current folder was deleted
        if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
            del sys.path[0]
    from dlcli.cli.main import main

    main()
