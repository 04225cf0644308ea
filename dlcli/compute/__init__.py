"""The machine and the arithmetic of a step: devices, threads, cost, optimizers, schedules."""
