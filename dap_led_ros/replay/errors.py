"""What the system says of files, in words that help."""

from __future__ import annotations

import errno


def clear(error: OSError) -> str:
    """One line of what the system says, and what to do about it."""
    if error.errno is None:  # our own words
        return str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            'no space is left: free some and go on with --resume; bags that are packed are '
            'unpacked in the folder that TMPDIR names'
        )
    where = error.filename or 'a file'
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f'{where} may not be read or written: change its permissions, or choose another'
    return f'{where}: {error.strerror}'
