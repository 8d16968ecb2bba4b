"""Services outside that keep content for others to fetch; each is off until the settings name it."""
