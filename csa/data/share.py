"""The part of the data that falls to one of several processes which train one run together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """rank: of this process, from 0. Draws are made for the global batch and cut; together the processes see it all."""

    rank: int = 0
    processes: int = 1

    def part(self, size: int) -> slice:
        """Of ``size`` things in a row; parts are disjoint and make up the whole."""
        return slice(size * self.rank // self.processes, size * (self.rank + 1) // self.processes)

    def of_batch(self, size: int) -> slice:
        """Of a global batch; never empty, since every process takes part in a step: see ``weight``."""
        part = self.part(size)
        return part if part.start < part.stop else slice(0, 1)

    def weight(self, size: int) -> float:
        """Of this process's mean loss, such that the mean over the processes is that over the global batch.

        0 where a batch smaller than the number of processes leaves this one only a repeated image.
        """
        part = range(size)[self.part(size)]
        return len(part) * self.processes / size


ALONE = Share()
