"""The file under construction, as the HDF5 library sees it."""

import io
import os
from typing import Any


class Aside(io.RawIOBase):
    """A new file that keeps its first failure to itself.

    The library can end the process when the system refuses a write while it closes a file. So a write that
    fails, on a full disk for instance, is remembered in `failure` and everything after it is dropped; whoever
    owns the file looks at `failure` and gives up.

    Parameters
    ----------
    path : path
        Must not exist yet; made with the permissions that the umask leaves.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.failure: OSError | None = None
        self._position = self._end = 0
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0), 0o666)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = (
            offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        )
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        content = memoryview(data).cast("B")
        done = 0
        while done < len(content) and self.failure is None:
            try:
                os.lseek(self._file, self._position + done, os.SEEK_SET)
                done += os.write(self._file, content[done:])
            except OSError as error:
                self.failure = error
        self._position += len(content)
        self._end = max(self._end, self._position)
        return len(content)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        os.lseek(self._file, self._position, os.SEEK_SET)
        content = os.read(self._file, len(view))
        # What was dropped, or never written, reads as zeros.
        view[:] = content + bytes(len(view) - len(content))
        self._position += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self._end = self._position if size is None else size
        if self.failure is None:
            try:
                os.ftruncate(self._file, self._end)
            except OSError as error:
                self.failure = error
        return self._end

    def close(self) -> None:
        """Close the file; a failure of the system to do so is remembered like any other."""
        if not self.closed:
            super().close()
            try:
                os.close(self._file)
            except OSError as error:
                self.failure = self.failure or error
