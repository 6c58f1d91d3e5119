"""Documents for people, made from a run's records alone."""
