"""Where blocks come from when they are not here: each a `Source`, none of them trusted."""
