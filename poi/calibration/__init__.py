"""`poi calibrate`: how far honest runs of a model lie apart, how far cheats lie from them, and the card that says so."""
