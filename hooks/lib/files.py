"""Files in directories that another user may change: reads and replaces them through no link that another user could have made."""

import errno
import os
import secrets
import stat

MOST_LINKS = 40
# Larger files are no configuration.
MOST_BYTES = 16 * 1024 * 1024

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def read_file(path):
    """Returns the content of a regular file, as bytes."""
    directory, name = _find(path)
    try:
        with os.fdopen(_open(directory, name, path), "rb") as file:
            content = file.read(MOST_BYTES + 1)
    finally:
        os.close(directory)
    if len(content) > MOST_BYTES:
        raise _error(errno.EFBIG, path)
    return content


def read_text(path, errors="strict"):
    """Returns the content of a regular file in UTF-8."""
    return read_file(path).decode("utf-8", errors)


def replace_file(path, content):
    """Replaces the content of a file atomically. Its owner, permissions and attributes stay. A link stays a link."""
    directory, name = _find(path)
    temporary = f".{secrets.token_hex(8)}.new"
    try:
        old = _open(directory, name, path)
        with os.fdopen(old, "rb"):
            new = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory)
            with os.fdopen(new, "wb") as file:
                file.write(content)
                file.flush()
                found = os.fstat(old)
                os.fchown(new, found.st_uid, found.st_gid)
                # No setuid bit and no capability: the file at this name may be another than the one that was read.
                os.fchmod(new, found.st_mode & 0o777)
                for attribute in os.listxattr(old):
                    if attribute != "security.capability":
                        os.setxattr(new, attribute, os.getxattr(old, attribute))
                os.fsync(new)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        _sync(directory)
    except BaseException:
        try:
            os.unlink(temporary, dir_fd=directory)
        except FileNotFoundError:
            pass
        raise
    finally:
        os.close(directory)


def _find(path):
    """Opens the directory of a file. Returns its descriptor, and the name of the file in it, which is no link."""
    left = _names(path)
    directory = _root()
    links = 0
    may_follow = True
    try:
        while True:
            may_follow = may_follow and _is_roots(os.fstat(directory))
            name = left.pop()
            if _is_link(name, directory):
                links += 1
                if links > MOST_LINKS or not may_follow or not _is_own(os.lstat(name, dir_fd=directory)):
                    raise _error(errno.ELOOP, path)
                target = os.readlink(name, dir_fd=directory)
                left.extend(_names(target))
                below = _root() if target.startswith("/") else os.dup(directory)
            elif left:
                below = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            else:
                return directory, name
            os.close(directory)
            directory = below
    except OSError as error:
        os.close(directory)
        raise _error(error.errno, path) from None


def _names(path):
    """The names in a path, the last one first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _root():
    return os.open("/", os.O_PATH | os.O_DIRECTORY)


def _is_link(name, directory):
    try:
        return stat.S_ISLNK(os.lstat(name, dir_fd=directory).st_mode)
    except FileNotFoundError:
        return False


def _is_own(found):
    """True if it belongs to root, or to the user of a test."""
    return found.st_uid in (0, os.geteuid())


def _is_roots(found):
    """True for a directory in which no other user can replace what belongs to root."""
    return _is_own(found) and (not found.st_mode & 0o022 or bool(found.st_mode & stat.S_ISVTX))


def _open(directory, name, path):
    try:
        descriptor = os.open(name, _READ, dir_fd=directory)
    except OSError as error:
        raise _error(error.errno, path) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    return descriptor


def _sync(directory):
    descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _error(number, path):
    return OSError(number, os.strerror(number), path)
