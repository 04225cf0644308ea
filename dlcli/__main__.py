"""python -m dlcli"""

from dlcli.cli.main import main

if __name__ == "__main__":
    main()
