"""TPUs on Google Cloud from the user's own computer: what `bin/tpu` runs, with the standard library alone."""
