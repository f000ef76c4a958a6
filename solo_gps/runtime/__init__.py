"""What a process is: its ranks, files, devices, generators, progress and log lines."""
