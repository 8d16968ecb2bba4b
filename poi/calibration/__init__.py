"""`poi calibrate`: how far honest runs of a model lie apart, how far cheats do, and the card that says so."""
