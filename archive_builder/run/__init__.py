"""Where jobs run: local worker processes, Parsl, MPI."""
