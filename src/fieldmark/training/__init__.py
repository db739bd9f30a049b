"""From settled recipe, network and loaders to trained weights; the step itself is in `loop`."""
