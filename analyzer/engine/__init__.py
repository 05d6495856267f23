"""One replica from the step times of its engine: steady state, percentiles, largest rate."""
