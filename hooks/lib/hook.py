"""Shared code of the hooks of this package: settings, time limit, exit codes.

A hook is a function that takes the settings. It returns a sentence that says what it did, or raises NotApplicable or Failure.
"""

import argparse
import copy
import re
import shlex
import signal
import sys
import tomllib

from files import read_text

SETTINGS = "/etc/xivo-upgrade/hooks.toml"

# Every setting and its default. hooks.toml describes them. Times are in seconds.
DEFAULTS = {
    "time-limit": 300,
    "provd": {
        "url": "http://127.0.0.1:8666/provd",
        "token": "",
        "unit": "xivo-provd.service",
        "come-up-timeout": 20,
        "answer-timeout": 10,
        "reconfigure-timeout": 180,
    },
    "files": {
        "common": "/etc/xivo/common.conf",
        "pair": "/etc/xivo/ha.conf",
        "web-interface": ["/etc/pf-xivo/web-interface/xivo.ini", "/etc/xivo/web-interface/xivo.ini"],
    },
}

# The exit code for "not applicable on this machine" (docs/reference/hooks.md).
NOT_APPLICABLE = 75


class NotApplicable(Exception):
    """The hook is not applicable on this machine; the text is the reason."""


class Failure(Exception):
    """What failed and why, and the remedy."""

    def __init__(self, what, remedy):
        super().__init__(f"{what}. What to do: {remedy}")
        self.what = what
        self.remedy = remedy


class TimeIsUp(Exception):
    """The time limit of the hook is over. A signal raises it, so it can come from any line."""


def main(run):
    """Runs a hook, prints its result as one line, and exits."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--settings", default=SETTINGS, metavar="FILE", help=f"read settings from FILE instead of {SETTINGS}")
    arguments = parser.parse_args()
    try:
        settings = read_settings(arguments.settings)
        signal.signal(signal.SIGALRM, _time_is_up)
        signal.setitimer(signal.ITIMER_REAL, settings["time-limit"])
        try:
            print(run(settings))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except NotApplicable as reason:
        print(f"nothing to do on this machine: {reason}")
        sys.exit(NOT_APPLICABLE)
    except Failure as failure:
        sys.exit(_one_line(failure))
    except TimeIsUp:
        sys.exit("the time limit is over. What to do: run the hook again, or raise time-limit in its settings")
    except OSError as error:
        sys.exit(_one_line(f"{error}. What to do: correct that, then run the hook again"))
    except Exception as error:
        sys.exit(_one_line(f"{error!r}. What to do: report this bug to the vendor of this hook"))


def read_settings(path):
    """Returns the settings of the file, with defaults for the missing ones."""
    try:
        text = read_text(path)
        given = tomllib.loads(text)
    except FileNotFoundError:
        return copy.deepcopy(DEFAULTS)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        raise Failure(f"{path}:{line}: {error}", "correct that line") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise Failure(f"{path}:{line}: this is not UTF-8", "correct that line") from None
    settings = copy.deepcopy(DEFAULTS)
    _merge(settings, given, lambda key, what: _bad_setting(path, text, key, what))
    return settings


def read_variables(path):
    """Returns the variables of a shell file: NAME=value or NAME="value" lines, as in common.conf."""
    variables = {}
    for number, line in enumerate(read_text(path, "replace").splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise Failure(f"{path}:{number}: {error}", "correct that line") from None
        for word in words:
            name, equals, value = word.partition("=")
            if equals:
                variables[name] = value
    return variables


def _merge(settings, given, bad):
    for key, value in given.items():
        if key not in settings:
            raise bad(key, "is not a setting")
        default = settings[key]
        if isinstance(default, dict) and isinstance(value, dict):
            _merge(default, value, bad)
        elif isinstance(default, int) and (type(value) not in (int, float) or not 0 < value <= 3600):
            raise bad(key, "must be a number of seconds, at most 3600")
        elif isinstance(default, list) and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
            raise bad(key, "must be a list of texts")
        elif isinstance(default, (str, dict)) and type(value) is not type(default):
            raise bad(key, "must be a text" if isinstance(default, str) else "must be a table")
        else:
            settings[key] = value


def _bad_setting(path, text, key, what):
    # tomllib does not report the lines of keys.
    pattern = re.compile(rf"""^\s*\[*\s*["']?{re.escape(key)}["']?\s*[\]=.]""")
    lines = (number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line))
    return Failure(f"{path}:{next(lines, 1)}: {key} {what}", "correct that line")


def _time_is_up(_signal, _frame):
    raise TimeIsUp


def _one_line(text):
    return " ".join(str(text).split())
