"""Workers as real processes: run, killed, stopped, cut off."""
