"""The end of a growing log: what was written since the last look, and nothing else, is read."""

from __future__ import annotations

from pathlib import Path

from partimento.runs.events import Event, parse_line

MOST_BYTES = 8 << 20  # of one read; a long log is taken in parts


class Tail:
    """Events of `path` as they come. A line without its end is being written and waits for the next look.

    The file is opened at every look, since a shared disk shows what another machine wrote to who opens anew. A file
    that was replaced or cut is read again from its beginning, and `restarted` is True for that look.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = 0  # whole lines that are no events: a power loss, or holes of a network disk
        self.restarted = False
        self._offset, self._inode, self._rest = 0, -1, b""

    def read(self) -> list[Event]:
        """Raises OSError where the file is there and cannot be read."""
        self.restarted = False
        found: list[Event] = []
        try:
            stream = self.path.open("rb")
        except FileNotFoundError:
            return found
        with stream:
            status = self.path.stat()
            if self._inode not in (-1, status.st_ino) or status.st_size < self._offset:
                self.restarted, self._offset, self._rest, self.torn = True, 0, b"", 0
            self._inode = status.st_ino
            stream.seek(self._offset)
            while data := stream.read(MOST_BYTES):
                self._offset += len(data)
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in filter(bytes.strip, lines):
                    event = parse_line(line)
                    if event is None:
                        self.torn += 1
                    else:
                        found.append(event)
        return found
