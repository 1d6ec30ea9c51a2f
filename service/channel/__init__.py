"""The channel between API processes and the engine process: ZeroMQ over a socket file that only its user can reach."""
