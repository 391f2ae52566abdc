"""Fixture for tests that run the hooks with the stand-in of provd."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import unittest

HOOKS = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..")
EXCHANGE = os.path.join(HOOKS, "..", "harness", "products", "exchange")


def module(name):
    """Imports a program of the synthetic releases as a module."""
    sys.dont_write_bytecode = True
    spec = importlib.util.spec_from_file_location(f"exchange_{name}", os.path.join(EXCHANGE, f"{name}.py"))
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


provd = module("provd")
wizard = module("wizard")


class Exchange(unittest.TestCase):
    """An exchange with a pair and three devices, and settings with short timeouts."""

    devices = 3

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        self.common, self.pair, self.ini = (self.path(name) for name in ("common.conf", "ha.conf", "xivo.ini"))
        for file, content in wizard.FILES.items():
            with open(self.path(os.path.basename(file)), "w", encoding="utf-8") as out:
                out.write(content)
        self.server = None
        store = provd.Configs(self.directory)
        for config in wizard.configs(self.devices):
            store.put(config)

    def path(self, name):
        return os.path.join(self.directory, name)

    def start_provd(self, **how):
        self.server = provd.Server(("127.0.0.1", 0), self.directory, **how)
        self.addCleanup(self.server.server_close)
        threading.Thread(target=self.server.serve_forever, args=[0.01], daemon=True).start()
        self.addCleanup(self.server.shutdown)

    def run_hook(self, hook, **provd_settings):
        """Returns exit code, stdout and stderr."""
        port = self.server.server_port if self.server else unused_port()
        defaults = {"url": f"http://127.0.0.1:{port}/provd", "unit": "", "come-up-timeout": 0.3, "answer-timeout": 0.3}
        settings = [f"time-limit = {provd_settings.pop('limit', 30)}", "[provd]"]
        settings += [f"{name} = {json.dumps(value)}" for name, value in (defaults | provd_settings).items()]
        settings += ["[files]", f"common = {json.dumps(self.common)}", f"pair = {json.dumps(self.pair)}"]
        settings += [f"web-interface = {json.dumps([self.path('absent.ini'), self.ini])}"]
        return self.run_with(hook, "\n".join(settings))

    def run_with(self, hook, settings):
        with open(self.path("hooks.toml"), "w", encoding="utf-8") as file:
            file.write(settings)
        command = [os.path.join(HOOKS, "post-upgrade.d", hook), "--settings", self.path("hooks.toml")]
        path = f"{self.directory}:{os.environ['PATH']}"
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | {"PATH": path})
        return done.returncode, done.stdout, done.stderr

    def systemd_says(self, load, unit_file, active):
        """Puts a systemctl with this output into PATH."""
        systemctl = self.path("systemctl")
        with open(systemctl, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\nprintf 'LoadState={load}\nActiveState={active}\nUnitFileState={unit_file}\n'\n")
        os.chmod(systemctl, 0o755)

    def fault(self, method, name, fault):
        with open(self.path("faults.json"), "w", encoding="utf-8") as file:
            json.dump([{"method": method, "id": name, "fault": fault}], file)

    def no_fault(self):
        os.unlink(self.path("faults.json"))

    def config(self, name):
        """Reads a configuration from disk."""
        with open(self.path(f"jsondb/configs/{name}"), encoding="utf-8") as file:
            return json.load(file)

    def requests(self):
        """The requests to provd since the last call."""
        try:
            with open(self.path("requests.log"), encoding="utf-8") as file:
                lines = file.read().splitlines()
            os.unlink(self.path("requests.log"))
            return lines
        except FileNotFoundError:
            return []

    def written(self):
        return [line for line in self.requests() if not line.startswith("GET ")]

    def assert_done(self, result, says):
        code, out, err = result
        self.assertEqual((code, err), (0, ""), result)
        self.assertIn(says, out)

    def assert_not_applicable(self, result, says):
        code, out, err = result
        self.assertEqual((code, err), (75, ""), result)
        self.assertIn(says, out)

    def assert_failed(self, result, *says):
        code, _, err = result
        self.assertEqual((code, err.count("\n")), (1, 1), result)
        for text in [*says, "What to do: "]:
            self.assertIn(text, err)


def unused_port():
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
