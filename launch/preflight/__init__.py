"""What a config would be on chips that are not here, by their compiler: memory, collectives, times, and verdicts."""
