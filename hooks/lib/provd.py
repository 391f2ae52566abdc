"""provd's configurations over its REST interface, as the public source of wazo-provd has it (provd/rest/server/server.py).

Old ones have the prefix /provd, newer ones /0.2 and want a token; documents and answers are the same.
"""

import http.client
import json
import subprocess
import time
from urllib.parse import quote, urlencode, urlsplit

from hook import Failure, NotApplicable, TimeIsUp

MEDIA_TYPE = "application/vnd.proformatique.provd+json"

# How many configurations are asked for at once. What somebody else saves while these are written back would be lost, so it is
# a fraction of a second's work.
PAGE = 100

# How long to wait before provd is tried again while it comes up, in seconds.
PAUSE = 0.2

# provd is not there, or is just going or coming.
ABSENT = (ConnectionRefusedError, ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected)


class Unavailable(Failure):
    """provd cannot be spoken to: the other configurations would fail in the same way."""


class BadAnswer(Failure):
    """provd's answer about one configuration is no good."""


class Silent(BadAnswer):
    """provd did not answer in time."""


class Provd:
    """A provd. Raises Unavailable or BadAnswer with the name of the configuration that it was asked about."""

    def __init__(self, settings):
        self.settings = settings["provd"]
        check_unit(self.settings["unit"])
        try:
            url = urlsplit(self.settings["url"])
            connection = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}[url.scheme]
            self.connection = connection(url.hostname or "", url.port)
        except (ValueError, KeyError, http.client.InvalidURL):
            raise Failure(f"{self.settings['url']} is no URL of provd", "correct url in [provd] of the settings") from None
        self.configs_path = f"{url.path.rstrip('/')}/cfg_mgr/configs"
        self.headers = {"Accept": MEDIA_TYPE}
        if self.settings["token"]:
            self.headers["X-Auth-Token"] = self.settings["token"]

    def configs(self):
        """All configurations, in order of their names. Read page by page, so that each is fresh when it is looked at."""
        subject = "list of device configurations"
        seen = 0
        while True:
            query = urlencode({"sort": "id", "sort_ord": "ASC", "skip": seen, "limit": PAGE})
            page = self._document(subject, self._request(subject, "GET", f"{self.configs_path}?{query}"), "configs", list)
            for config in page:
                if not isinstance(config, dict) or not isinstance(config.get("id"), str):
                    raise BadAnswer(f"{subject}: a configuration in it has no id", self._look())
            yield from page
            if len(page) < PAGE:
                return
            seen += len(page)
            subject = f"list of device configurations after {page[-1]['id']}"

    def get(self, name):
        """A configuration with everything in it, or None if provd has none of this name."""
        subject = f"device configuration {name}"
        answer = self._request(subject, "GET", self._path(name))
        if answer is None:
            return None
        config = self._document(subject, answer, "config", dict)
        if not isinstance(config.get("raw_config"), dict):
            raise BadAnswer(f"{subject}: it has no raw_config", self._look())
        return config

    def put(self, name, config, timeout=None):
        """Replaces a configuration as a whole. False if provd no longer has it."""
        body = json.dumps({"config": config}).encode()
        return self._request(f"device configuration {name}", "PUT", self._path(name), body, timeout) is not None

    def _path(self, name):
        return f"{self.configs_path}/{quote(name, safe='')}"

    def _request(self, subject, method, path, body=None, timeout=None):
        """The content of a good answer; None for 404. Every request may be sent twice: a PUT is the whole document."""
        timeout = timeout or self.settings["answer-timeout"]
        began = time.monotonic()
        while True:
            try:
                status, reason, content = self._exchange(method, path, body, timeout)
                why = f"provd answered {status} {reason}"
                if status != 503:
                    break
            except ABSENT as error:
                why = f"provd does not answer at {self.settings['url']} ({error.strerror or error})"
            except TimeoutError:
                raise self._silent(subject, f"{timeout} s") from None
            except http.client.IncompleteRead:
                raise BadAnswer(f"{subject}: provd's answer was cut off", self._look()) from None
            except http.client.HTTPException as error:
                raise BadAnswer(f"{subject}: provd's answer is not HTTP ({error!r})", self._look()) from None
            except OSError as error:
                raise Unavailable(f"{subject}: {self.settings['url']}: {error}", self._look()) from None
            except TimeIsUp:
                raise Unavailable(f"{subject}: the time limit of the hook is over", self._look()) from None
            if time.monotonic() - began >= self.settings["come-up-timeout"]:
                raise Unavailable(f"{subject}: {why}", self._start())
            time.sleep(PAUSE)
        if status in (200, 204):
            return content
        if status == 404 and path.startswith(f"{self.configs_path}/"):
            return None
        if status in (401, 403):
            raise Unavailable(f"{subject}: {why}", "set token in [provd] of the settings to one that may do this")
        if status == 404:
            raise Unavailable(f"{subject}: {why}", "correct url in [provd] of the settings: newer ones end in /0.2")
        said = " ".join(content[:200].decode("ascii", "replace").split())
        raise BadAnswer(f"{subject}: {why}" + (f" ({said})" if said else ""), self._look())

    def _exchange(self, method, path, body, timeout):
        headers = self.headers | ({"Content-Type": MEDIA_TYPE} if body is not None else {})
        self.connection.timeout = timeout
        if self.connection.sock:
            self.connection.sock.settimeout(timeout)
        try:
            self.connection.request(method, path, body, headers)
            response = self.connection.getresponse()
            return response.status, response.reason, response.read()
        except BaseException:
            # What comes next on this connection is not the answer to the next request.
            self.connection.close()
            raise

    def _document(self, subject, content, key, kind):
        try:
            document = json.loads(content)
        except ValueError:
            raise BadAnswer(f"{subject}: provd's answer is not whole JSON", self._look()) from None
        if not isinstance(document, dict) or not isinstance(document.get(key), kind):
            raise BadAnswer(f"{subject}: provd's answer has no {key}", self._look())
        return document[key]

    def _silent(self, subject, limit):
        return Silent(f"{subject}: provd did not answer within {limit}", self._look())

    def _look(self):
        return f"look at the log of {self._name()}, mend it, then run the hook again"

    def _start(self):
        return f"start {self._name()}, then run the hook again"

    def _name(self):
        return self.settings["unit"].removesuffix(".service") or "provd"


def check_unit(unit):
    """Raises NotApplicable if provd is not meant to run on this machine. With no unit, nobody can tell."""
    if not unit:
        return
    command = ["systemctl", "show", "--property=LoadState,UnitFileState,ActiveState", unit]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        # Then provd's own answer will show how it is.
        return
    state = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    name = unit.removesuffix(".service")
    if state.get("LoadState") == "not-found":
        raise NotApplicable(f"{name} is not installed")
    off = state.get("UnitFileState") == "disabled" and state.get("ActiveState") in ("inactive", "failed")
    if off or state.get("LoadState") == "masked":
        raise NotApplicable(f"{name} is switched off")
