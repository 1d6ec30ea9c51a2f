"""The scheduler on virtual time: machines, load, the loop that runs them, and the bound that nobody can beat."""
