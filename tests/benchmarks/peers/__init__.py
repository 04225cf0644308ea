"""Other trainers, one a file, each a process that trains an epoch, evaluates, and prints a JSON line."""
