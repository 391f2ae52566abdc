"""10-device-template."""

import http.server
import os
import threading
import unittest

from standin import Exchange, wizard

HOOK = "10-device-template"


class DeviceTemplate(Exchange):
    def test_it_writes_the_address_once_and_nothing_else(self):
        self.start_provd()
        before = self.config("base")
        self.assert_done(self.run_hook(HOOK), "is now 192.0.2.10")
        after = self.config("base")
        self.assertEqual(after["raw_config"].pop("X_xivo_phonebook_ip"), wizard.ADDRESS)
        del before["raw_config"]["X_xivo_phonebook_ip"]
        self.assertEqual(after, before)
        self.assertEqual(self.requests(), ["GET configs/base 200", "PUT configs/base 204"])
        self.assert_done(self.run_hook(HOOK), "is 192.0.2.10 already")
        self.assertEqual(self.requests(), ["GET configs/base 200"])

    def test_a_newer_provd_gets_the_token(self):
        self.start_provd(prefix="/0.2", token="s3cret")
        url = f"http://127.0.0.1:{self.server.server_port}/0.2"
        self.assert_failed(self.run_hook(HOOK, url=url, token="other"), "base: provd answered 401", "set token")
        self.assert_done(self.run_hook(HOOK, url=url, token="s3cret"), "is now")

    def test_an_exchange_without_setup_is_not_applicable(self):
        os.unlink(self.common)
        self.assert_not_applicable(self.run_hook(HOOK), "not set up yet")

    def test_a_machine_without_an_enabled_provd_is_not_applicable(self):
        self.start_provd()
        for state, says in [
            (("not-found", "", "inactive"), "xivo-provd is not installed"),
            (("masked", "masked", "inactive"), "xivo-provd is disabled"),
            (("loaded", "disabled", "inactive"), "xivo-provd is disabled"),
        ]:
            self.systemd_says(*state)
            self.assert_not_applicable(self.run_hook(HOOK, unit="xivo-provd.service"), says)
        self.assertEqual(self.requests(), [])
        # Disabled, but it runs; or enabled, but it is down.
        for state in [("loaded", "disabled", "active"), ("loaded", "enabled", "failed")]:
            self.systemd_says(*state)
            self.assert_done(self.run_hook(HOOK, unit="xivo-provd.service"), "192.0.2.10")

    def test_an_invalid_address_is_reported(self):
        for text in ["", "XIVO_NET4_IP=\n", 'XIVO_NET4_IP="eth0"\n', 'A="\n']:
            with open(self.common, "w", encoding="utf-8") as file:
                file.write(text)
            self.assert_failed(self.run_hook(HOOK), self.common)

    def test_a_missing_base_is_reported(self):
        os.unlink(self.path("jsondb/configs/base"))
        self.start_provd()
        self.assert_failed(self.run_hook(HOOK), "device configuration base: provd has none")

    def test_a_provd_that_is_down_is_reported_after_the_timeout(self):
        self.assert_failed(self.run_hook(HOOK), "base: provd does not answer at http://127.0.0.1", "start provd")

    def test_the_hook_waits_for_a_provd_that_starts(self):
        self.start_provd()
        self.fault("GET", "base", 503)
        timer = threading.Timer(1, self.no_fault)
        timer.start()
        self.addCleanup(timer.join)
        self.assert_done(self.run_hook(HOOK, **{"come-up-timeout": 20}), "is now")

    def test_every_fault_names_the_configuration_and_does_not_change_it(self):
        self.start_provd()
        before = self.config("base")
        for method, fault, says in [
            ("GET", 500, "provd answered 500"),
            ("GET", "stall", "provd did not answer within 0.3 s"),
            ("GET", "cut", "provd's answer was cut off"),
            ("GET", "half", "provd's answer is not whole JSON"),
            ("GET", "close", "provd does not answer"),
            ("PUT", 400, "provd answered 400"),
            ("PUT", 500, "something went wrong"),
            ("PUT", "stall", "provd did not answer within 0.4 s"),
            ("PUT", 404, "deleted meanwhile"),
        ]:
            with self.subTest(method=method, fault=fault):
                self.fault(method, "base", fault)
                result = self.run_hook(HOOK, **{"reconfigure-timeout": 0.4})
                self.assert_failed(result, "device configuration base: ", says)
                self.assertEqual(self.config("base"), before)
        self.no_fault()
        self.assert_done(self.run_hook(HOOK), "is now")

    def test_an_answer_that_drips_ends_with_the_time_limit(self):
        class Dripping(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                over = threading.Event()
                try:
                    while not over.wait(0.05):
                        self.wfile.write(b" ")
                except OSError:
                    pass

            def log_message(self, *_arguments):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dripping)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/provd"
        self.assert_failed(self.run_hook(HOOK, url=url, limit=1), "configuration base: the time limit of the hook is over")

    def test_an_error_in_the_settings_is_reported_with_file_and_line(self):
        for text, says in [
            ("[provd]\nurl = \n", "hooks.toml:2: "),
            ("[provd]\n\nurls = 'x'\n", "hooks.toml:3: urls is not a setting"),
            ("[provd]\nurl = 3\n", "hooks.toml:2: url must be a text"),
            ("# x\ntime-limit = 'long'\n", "hooks.toml:2: time-limit must be a number"),
            ("[files]\nweb-interface = 'x'\n", "hooks.toml:2: web-interface must be a list"),
            ("provd = 1\n", "hooks.toml:1: provd must be a table"),
            ("\n[provd]\nurl = 'ftp://x'\nunit = ''\n", "ftp://x is no URL of provd"),
            ("[provd]\nurl = 'http://x:port/'\nunit = ''\n", "is no URL of provd"),
        ]:
            settings = text if "files" in text else f"{text}\n[files]\ncommon = '{self.common}'\n"
            with self.subTest(text=text):
                self.assert_failed(self.run_with(HOOK, settings), says)

    def test_the_shipped_settings_show_the_defaults(self):
        import re
        import sys

        import standin

        sys.path.insert(0, os.path.join(standin.HOOKS, "lib"))
        import hook

        with open(os.path.join(standin.HOOKS, "hooks.toml"), encoding="utf-8") as file:
            shipped = file.read()
        self.assertEqual(hook.read_settings(os.path.join(standin.HOOKS, "hooks.toml")), hook.DEFAULTS)
        uncommented = re.sub(r"^#(?=[a-z])", "", shipped, flags=re.MULTILINE)
        import tomllib

        self.assertEqual(tomllib.loads(uncommented), hook.DEFAULTS)


if __name__ == "__main__":
    unittest.main()
