"""A Bayesian linear model of a study's parameters: features, structured prior, Thompson draw."""
