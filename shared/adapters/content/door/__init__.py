"""The private door of a running node: its content for the person who runs it, by a unix socket in the data folder.

The node alone has its store open, so `poi content …` asks it here. Whoever may enter the folder may do everything; a
browser or another user cannot, for there is no port.
"""
