"""Images of functions as reproducible OCI layouts, made and pushed without a daemon and without root."""
