"""Which pictures are trained on, choose the epoch and are held back; and such parts as files."""
