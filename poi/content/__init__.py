"""`poi content …`: what this node holds, for the person who runs it, whether or not the node runs."""
