#!/usr/bin/python3 -IB
"""A stand-in for xivo-provd: configurations on disk, and the REST interface to them, also its errors.

What it takes and answers is that of provd (wazo-provd's public source: provd/rest/server/server.py, provd/persist/util.py,
provd/app.py). It configures no phones, and has no part of the interface but cfg_mgr/configs.

In its directory:
  jsondb/configs/NAME   a configuration
  requests.log          a line for every request: method, path below configs, status
  faults.json           what goes wrong, if that file is there: see Faults

PROVD_PREFIX and PROVD_TOKEN in the environment make it a newer one: "/0.2", and the token that it wants.
"""

import base64
import functools
import json
import os
import re
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

NAME, VERSION = "@NAME@", "@VERSION@"
DIRECTORY = "/var/lib/xivo-provd"
MEDIA_TYPE = "application/vnd.proformatique.provd+json"


class Configs:
    """The configurations, in memory and on disk."""

    def __init__(self, directory):
        self.directory = os.path.join(directory, "jsondb", "configs")
        os.makedirs(self.directory, exist_ok=True)
        self.documents = {}
        for name in os.listdir(self.directory):
            if not name.startswith("."):
                with open(os.path.join(self.directory, name), encoding="utf-8") as file:
                    self.documents[unquote(name)] = json.load(file)

    def put(self, config):
        path = os.path.join(self.directory, quote(config["id"], safe=""))
        with open(f"{self.directory}/.new", "w", encoding="utf-8") as file:
            file.write(json.dumps(config))
        os.rename(file.name, path)
        self.documents[config["id"]] = config

    def delete(self, name):
        os.unlink(os.path.join(self.directory, quote(name, safe="")))
        del self.documents[name]

    def raw(self, name):
        """A raw_config with those of its ancestors below it."""
        config = self.documents.get(name)
        if config is None:
            return None
        merged = {}
        for parent in config["parent_ids"]:
            merged = _merged(merged, self.raw(parent) or {})
        return _merged(merged, config["raw_config"])

    def find(self, selector, fields, skip, limit, sort):
        found = [config for config in self.documents.values() if _matches(config, selector)]
        if sort:
            key, descending = sort
            found.sort(key=lambda config: str(next(_values(config, key), "")), reverse=descending)
        found = found[skip:][: limit or None]
        return [_with_fields(config, fields) for config in found]


class Faults:
    """The injected faults: a list of {"method": "PUT", "id": "regular expression", "fault": …} in faults.json.

    The id of the list is "". Faults: a number answers it as the status; "stall" never answers, "cut" ends the connection in the
    middle of the answer, "half" sends half of the JSON as if it were whole, "close" ends it without an answer.
    """

    def __init__(self, directory):
        self.path = os.path.join(directory, "faults.json")

    def of(self, method, name):
        try:
            with open(self.path, encoding="utf-8") as file:
                faults = json.load(file)
        except FileNotFoundError:
            return None
        hits = (fault["fault"] for fault in faults if fault["method"] == method and re.fullmatch(fault["id"], name))
        return next(hits, None)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    # Headers and content in one piece: two would wait for each other on the wire.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        self.answer_to(self.get)

    def do_POST(self):
        self.answer_to(self.post)

    def do_PUT(self):
        self.answer_to(self.put)

    def do_DELETE(self):
        self.answer_to(self.delete)

    def answer_to(self, method):
        url = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, answer, headers = 404, "No such resource", {}
        configs = f"{self.server.prefix}/cfg_mgr/configs"
        name = None
        if url.path.rstrip("/") == configs:
            name = ""
        elif url.path.startswith(f"{configs}/"):
            name = url.path.removeprefix(f"{configs}/")
        self.fault = self.server.faults.of(self.command, unquote(name or ""))
        if self.fault == "stall":
            # Until the other side gives up.
            self.log(name, "stalled")
            self.rfile.read(1)
            self.close_connection = True
            return
        if self.fault == "close":
            self.log(name, "closed")
            self.close_connection = True
            return
        if isinstance(self.fault, int):
            status, answer = self.fault, "something went wrong"
        elif self.server.token and self.headers.get("X-Auth-Token") != self.server.token:
            status, answer = 401, "Unauthorized"
        elif name is not None:
            with self.server.lock:
                status, answer, headers = method(name, url.query, content)
        # Log the request before the answer, so that a test that has the answer finds it in the log.
        self.log(name, status)
        self.answer(status, answer, headers)

    def get(self, name, query, _content):
        accepted = [one.split(";")[0].strip() for one in self.headers.get("Accept", "*/*").split(",")]
        if not {MEDIA_TYPE, "application/*", "*/*"} & set(accepted):
            return 406, f'You must accept the "{MEDIA_TYPE}" MIME type.', {}
        configs = self.server.configs
        if not name:
            return 200, {"configs": configs.find(**_find_arguments(query))}, {}
        name, slash, rest = name.partition("/")
        name = unquote(name)
        if name not in configs.documents or rest not in ("", "raw"):
            return 404, "No such resource", {}
        return 200, {"raw_config": configs.raw(name)} if slash else {"config": configs.documents[name]}, {}

    def put(self, name, _query, content):
        config, error = self.config(content)
        if error:
            return error
        name = unquote(name)
        if name not in self.server.configs.documents:
            return 404, "No such resource", {}
        self.server.configs.put(config | {"id": name})
        return 204, None, {}

    def post(self, name, _query, content):
        if name:
            return 405, "Method Not Allowed", {}
        config, error = self.config(content)
        if error:
            return error
        documents = self.server.configs.documents
        config.setdefault("id", f"{len(documents) + 1:032x}")
        if config["id"] in documents:
            return 400, config["id"], {}
        self.server.configs.put(config)
        location = f"{self.server.prefix}/cfg_mgr/configs/{quote(config['id'], safe='')}"
        return 201, {"id": config["id"]}, {"Location": location}

    def delete(self, name, _query, _content):
        name = unquote(name)
        if name not in self.server.configs.documents:
            return 404, "No such resource", {}
        self.server.configs.delete(name)
        return 204, None, {}

    def config(self, content):
        """Returns the configuration in the body of a request, or the error to answer."""
        if self.headers.get("Content-Type") != MEDIA_TYPE:
            return None, (415, f'Entity must be in media type "{MEDIA_TYPE}".', {})
        try:
            config = json.loads(content)["config"]
            if not isinstance(config["raw_config"], dict) or not isinstance(config["parent_ids"], list):
                raise TypeError("raw_config is an object, parent_ids a list")
        except ValueError as error:
            return None, (400, f"Invalid JSON document: {error}", {})
        except (KeyError, TypeError) as error:
            return None, (400, f"Missing information in received entity: {error}", {})
        return config, None

    def answer(self, status, answer, headers):
        kind = "text/plain; charset=ascii"
        if isinstance(answer, dict):
            kind, answer = MEDIA_TYPE, json.dumps(answer, separators=(",", ":"))
        content = (answer or "").encode()
        if self.fault == "half":
            content = content[: len(content) // 2]
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header, value)
        if status != 204:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.fault == "cut":
            content = content[: len(content) // 2]
            self.close_connection = True
        self.wfile.write(content)

    def log(self, name, status):
        with self.server.lock, open(self.server.log, "a", encoding="utf-8") as file:
            file.write(f"{self.command} configs/{unquote(name or '')} {status}\n".replace("/ ", " "))

    def log_message(self, *_arguments):
        pass


class Server(ThreadingHTTPServer):
    """provd, at an address."""

    daemon_threads = True

    def __init__(self, address, directory, prefix="/provd", token=""):
        super().__init__(address, Handler)
        self.configs = Configs(directory)
        self.faults = Faults(directory)
        self.log = os.path.join(directory, "requests.log")
        self.prefix, self.token = prefix, token
        self.lock = threading.Lock()


def _find_arguments(query):
    """Parses the parameters as provd does: invalid ones are ignored."""
    query = {key: values[0] for key, values in parse_qs(query).items()}

    def number(key):
        try:
            return int(query.get(key, 0))
        except ValueError:
            return 0

    try:
        selector = json.loads(base64.b64decode(query["q64"]) if "q64" in query else query.get("q", "{}"))
    except ValueError:
        selector = {}
    return {
        "selector": selector,
        "fields": query["fields"].split(",") if "fields" in query else None,
        "skip": number("skip"),
        "limit": number("limit"),
        "sort": (query["sort"], query.get("sort_ord") == "DESC") if "sort" in query else None,
    }


def _values(document, key):
    for name in key.split("."):
        if not isinstance(document, dict) or name not in document:
            return
        document = document[name]
    yield from document if isinstance(document, list) else [document]


OPERATORS = {
    "$in": lambda value, wanted: value in wanted,
    "$contains": lambda value, wanted: wanted in value,
    "$gt": lambda value, wanted: value > wanted,
    "$ge": lambda value, wanted: value >= wanted,
    "$lt": lambda value, wanted: value < wanted,
    "$le": lambda value, wanted: value <= wanted,
}


def _matches(document, selector):
    for key, wanted in selector.items():
        values = list(_values(document, key))
        tests = wanted if isinstance(wanted, dict) and any(name.startswith("$") for name in wanted) else {"$in": [wanted]}
        for operator, operand in tests.items():
            if operator == "$exists":
                good = bool(values) == bool(operand)
            elif operator == "$ne":
                good = operand not in values
            elif operator == "$nin":
                good = not set(values) & set(operand)
            else:
                good = any(OPERATORS[operator](value, operand) for value in values)
            if not good:
                return False
    return True


def _with_fields(config, fields):
    if not fields:
        return config
    result = {"id": config["id"]}
    for field in fields:
        *outer, last = field.split(".")
        try:
            value = functools.reduce(lambda place, name: place[name], [*outer, last], config)
        except (KeyError, TypeError):
            continue
        place = result
        for name in outer:
            place = place.setdefault(name, {})
        place[last] = value
    return result


def _merged(below, above):
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _ready():
    """Writes pid and version for the tests, then notifies systemd."""
    with open(f"/run/{NAME}.running", "w", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {VERSION}\n")
    supervisor = os.environ.get("NOTIFY_SOCKET")
    if supervisor:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", supervisor.replace("@", "\0", 1) if supervisor.startswith("@") else supervisor)


if __name__ == "__main__":
    began = time.monotonic()
    environment = os.environ
    prefix, token = environment.get("PROVD_PREFIX", "/provd"), environment.get("PROVD_TOKEN", "")
    server = Server(("127.0.0.1", 8666), DIRECTORY, prefix, token)
    print(f"{len(server.configs.documents)} configurations read in {time.monotonic() - began:.1f} s", file=sys.stderr)
    _ready()
    server.serve_forever()
