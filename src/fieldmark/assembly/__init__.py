"""The parts that `api` puts together, each a step with a name: `pictures` and `network`."""
