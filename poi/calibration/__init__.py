"""`poi calibrate`: how far honest runs of a model lie apart, how far cheats lie from them, and a card that says it."""
