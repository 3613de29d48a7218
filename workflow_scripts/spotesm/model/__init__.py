"""Batches of sequences in, values out."""

from spotesm.machine.packages import refuse_other_esm

refuse_other_esm()
