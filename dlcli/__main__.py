"""python -m dlcli"""

import contextlib
import os
import sys

if __name__ == "__main__":
    # `-m` puts the current folder first in sys.path, where an untrusted file could shadow a library that dlcli imports.
    # A user's own modules are still found: see registry.py.
    with contextlib.suppress(FileNotFoundError):  # the current folder was deleted
        if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
            del sys.path[0]
    from dlcli.cli.main import main

    main()
