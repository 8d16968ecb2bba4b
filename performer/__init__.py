"""The role that runs a model and publishes a proof of the task."""
