"""Client of provd's REST interface for device configurations (provd/rest/server/server.py in the source of wazo-provd).

Old versions have the prefix /provd. Newer ones have /0.2 and need a token. Documents and answers are the same.
"""

import http.client
import json
import subprocess
import time
from urllib.parse import quote, urlencode, urlsplit

from hook import Failure, NotApplicable, TimeIsUp

MEDIA_TYPE = "application/vnd.proformatique.provd+json"

# How many configurations one request reads. A change that another client makes between our read and our write is lost, so a page
# must take only a fraction of a second.
PAGE = 100

# Seconds between two attempts while provd starts.
PAUSE = 0.2

# provd does not run, or is starting or stopping.
ABSENT = (ConnectionRefusedError, ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected)


class Unavailable(Failure):
    """provd cannot be reached: the other configurations would fail in the same way."""


class BadAnswer(Failure):
    """provd's answer about one configuration is an error or invalid."""


class Silent(BadAnswer):
    """provd did not answer before the timeout."""


class Provd:
    """A connection to provd. Its methods raise Unavailable or BadAnswer with the name of the configuration."""

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
        """Yields all configurations in the order of their names. It reads page by page, so that each is recent."""
        subject = "list of device configurations"
        seen = 0
        while True:
            query = urlencode({"sort": "id", "sort_ord": "ASC", "skip": seen, "limit": PAGE})
            page = self._document(subject, self._request(subject, "GET", f"{self.configs_path}?{query}"), "configs", list)
            for config in page:
                if not isinstance(config, dict) or not isinstance(config.get("id"), str):
                    raise BadAnswer(f"{subject}: a configuration in it has no id", self._check_log())
            yield from page
            if len(page) < PAGE:
                return
            seen += len(page)
            subject = f"list of device configurations after {page[-1]['id']}"

    def get(self, name):
        """Returns a whole configuration, or None if provd has none of this name."""
        subject = f"device configuration {name}"
        answer = self._request(subject, "GET", self._path(name))
        if answer is None:
            return None
        config = self._document(subject, answer, "config", dict)
        if not isinstance(config.get("raw_config"), dict):
            raise BadAnswer(f"{subject}: it has no raw_config", self._check_log())
        return config

    def put(self, name, config, timeout=None):
        """Replaces a whole configuration. Returns False if provd no longer has it."""
        body = json.dumps({"config": config}).encode()
        return self._request(f"device configuration {name}", "PUT", self._path(name), body, timeout) is not None

    def _path(self, name):
        return f"{self.configs_path}/{quote(name, safe='')}"

    def _request(self, subject, method, path, body=None, timeout=None):
        """Returns the content of a good answer, or None for 404. Requests are idempotent, so it may send one twice."""
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
                raise BadAnswer(f"{subject}: provd's answer was cut off", self._check_log()) from None
            except http.client.HTTPException as error:
                raise BadAnswer(f"{subject}: provd's answer is not HTTP ({error!r})", self._check_log()) from None
            except OSError as error:
                raise Unavailable(f"{subject}: {self.settings['url']}: {error}", self._check_log()) from None
            except TimeIsUp:
                raise Unavailable(f"{subject}: the time limit of the hook is over", self._check_log()) from None
            if time.monotonic() - began >= self.settings["come-up-timeout"]:
                raise Unavailable(f"{subject}: {why}", self._start())
            time.sleep(PAUSE)
        if status in (200, 204):
            return content
        if status == 404 and path.startswith(f"{self.configs_path}/"):
            return None
        if status in (401, 403):
            raise Unavailable(f"{subject}: {why}", "set token in [provd] of the settings to one with this permission")
        if status == 404:
            raise Unavailable(f"{subject}: {why}", "correct url in [provd] of the settings: that of newer versions ends in /0.2")
        said = " ".join(content[:200].decode("ascii", "replace").split())
        raise BadAnswer(f"{subject}: {why}" + (f" ({said})" if said else ""), self._check_log())

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
            # The rest of this answer must not be read as the answer to the next request.
            self.connection.close()
            raise

    def _document(self, subject, content, key, kind):
        try:
            document = json.loads(content)
        except ValueError:
            raise BadAnswer(f"{subject}: provd's answer is not whole JSON", self._check_log()) from None
        if not isinstance(document, dict) or not isinstance(document.get(key), kind):
            raise BadAnswer(f"{subject}: provd's answer has no {key}", self._check_log())
        return document[key]

    def _silent(self, subject, limit):
        return Silent(f"{subject}: provd did not answer within {limit}", self._check_log())

    def _check_log(self):
        return f"see the log of {self._name()}, correct the problem, then run the hook again"

    def _start(self):
        return f"start {self._name()}, then run the hook again"

    def _name(self):
        return self.settings["unit"].removesuffix(".service") or "provd"


def check_unit(unit):
    """Raises NotApplicable if provd is not installed or disabled. Without a unit, it checks nothing."""
    if not unit:
        return
    command = ["systemctl", "show", "--property=LoadState,UnitFileState,ActiveState", unit]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        # Without systemd, the first request shows whether provd runs.
        return
    state = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    name = unit.removesuffix(".service")
    if state.get("LoadState") == "not-found":
        raise NotApplicable(f"{name} is not installed")
    disabled = state.get("UnitFileState") == "disabled" and state.get("ActiveState") in ("inactive", "failed")
    if disabled or state.get("LoadState") == "masked":
        raise NotApplicable(f"{name} is disabled")
