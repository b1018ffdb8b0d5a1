"""Metrics: pure functions of samples or features, in float64. Drawing samples and scheduling live elsewhere."""
