"""20-backup-proxy."""

import json
import os
import time
import unittest

from standin import Exchange

HOOK = "20-backup-proxy"
BACKUP = "192.0.2.20"
DEVICES = ["defaultconfigdevice", "device0001", "device0002", "device0003"]


class BackupProxy(Exchange):
    def pair_is(self, **pair):
        with open(self.pair, "w", encoding="utf-8") as file:
            json.dump(pair, file)

    def all_configs(self):
        return {name: self.config(name) for name in os.listdir(self.path("jsondb/configs"))}

    def test_every_device_gets_the_other_node_and_loses_it_with_the_pair(self):
        self.start_provd()
        before = self.all_configs()
        self.assert_done(self.run_hook(HOOK), f"4 devices have the backup proxy {BACKUP}; 4 of them were changed")
        self.assertEqual(self.written(), [f"PUT configs/{name} 204" for name in DEVICES])
        raw = self.config("device0001")["raw_config"]
        self.assertEqual((raw["sip_backup_proxy_ip"], raw["sip_backup_registrar_ip"]), (BACKUP, BACKUP))
        self.assertEqual(len(raw["sip_lines"]), 2)
        for line in raw["sip_lines"].values():
            self.assertEqual((line["backup_proxy_ip"], line["backup_registrar_ip"]), (BACKUP, BACKUP))
        for other in ["base", "autoprov", "default"]:
            self.assertEqual(self.config(other), before[other])
        self.assert_done(self.run_hook(HOOK), "0 of them were changed")
        self.assertEqual(self.written(), [])

        self.pair_is(node_type="disabled", remote_address="")
        self.assert_done(self.run_hook(HOOK), "4 devices have no backup proxy; 4 of them were changed")
        self.assertEqual(self.all_configs(), before)
        self.assertEqual(len(self.written()), 4)
        self.assert_done(self.run_hook(HOOK), "0 of them were changed")
        self.assertEqual(self.written(), [])

    def test_only_what_changes_is_written(self):
        self.start_provd()
        self.run_hook(HOOK)
        config = self.config("device0002")
        del config["raw_config"]["sip_lines"]["1"]["backup_registrar_ip"]
        self.server.configs.put(config)
        self.requests()
        self.assert_done(self.run_hook(HOOK), "1 of them were changed")
        self.assertEqual(self.written(), ["PUT configs/device0002 204"])

    def test_odd_documents_stay_as_they_are(self):
        odd = {"sip_lines": {"1": None, "2": {"proxy_ip": "192.0.2.10"}}, "Zoë": 1.5}
        store = {"id": "a/b ?é", "parent_ids": [], "deletable": True, "raw_config": odd}
        self.start_provd()
        self.server.configs.put(store)
        self.server.configs.put({"id": "listed", "parent_ids": [], "deletable": True, "raw_config": {"sip_lines": []}})
        self.assert_done(self.run_hook(HOOK), "5 devices")
        raw = self.server.configs.documents["a/b ?é"]["raw_config"]
        self.assertEqual((raw["sip_lines"]["1"], raw["sip_lines"]["2"]["backup_proxy_ip"], raw["Zoë"]), (None, BACKUP, 1.5))
        self.assertNotIn("sip_backup_proxy_ip", self.config("listed")["raw_config"])

    def test_only_the_active_node_of_a_pair_is_applicable(self):
        self.pair_is(node_type="slave", remote_address="192.0.2.10")
        self.assert_not_applicable(self.run_hook(HOOK), "passive node")
        os.unlink(self.pair)
        self.assert_not_applicable(self.run_hook(HOOK), "was never in a pair")

    def test_an_invalid_configuration_of_the_pair_is_reported(self):
        for text in ["", "{", "[]", "{}", '{"node_type": "master"}', '{"node_type": "master", "remote_address": "x"}']:
            with open(self.pair, "w", encoding="utf-8") as file:
                file.write(text)
            self.assert_failed(self.run_hook(HOOK), self.pair, "no configuration of a pair")
        self.pair_is(node_type="king", remote_address="192.0.2.20")
        self.assert_failed(self.run_hook(HOOK), "node_type is 'king'")

    def test_every_fault_names_the_device_and_does_not_change_it(self):
        self.start_provd()
        before = self.config("device0002")
        for method, fault, says in [
            ("PUT", 500, "provd answered 500"),
            ("PUT", "stall", "provd did not answer within 0.3 s"),
            ("PUT", 400, "provd answered 400"),
            ("PUT", "close", "provd does not answer"),
        ]:
            with self.subTest(method=method, fault=fault):
                self.fault(method, "device0002", fault)
                self.assert_failed(self.run_hook(HOOK), "device configuration device0002: ", says)
                self.assertEqual(self.config("device0002"), before)
        self.no_fault()
        self.assert_done(self.run_hook(HOOK), f"have the backup proxy {BACKUP}")

    def test_a_list_that_cannot_be_read_changes_nothing(self):
        self.start_provd()
        for fault, says in [(500, "answered 500"), ("stall", "did not answer"), ("cut", "cut off"), ("half", "whole JSON")]:
            with self.subTest(fault=fault):
                self.fault("GET", "", fault)
                self.assert_failed(self.run_hook(HOOK), "list of device configurations: ", says, "no device was changed")
                self.assertEqual(self.written(), [])

    def test_a_device_that_is_deleted_meanwhile_is_no_failure(self):
        self.start_provd()
        self.fault("PUT", "device0002", 404)
        self.assert_done(self.run_hook(HOOK), "4 devices have the backup proxy 192.0.2.20; 3 of them were changed")


class ManyDevices(Exchange):
    devices = 450

    def test_every_page_is_read_and_a_failed_device_does_not_stop_the_others(self):
        self.start_provd()
        self.fault("PUT", "device.*[13579]", 500)
        result = self.run_hook(HOOK)
        says = "device0001: provd answered 500 Internal Server Error (something went wrong); also device0003, device0005 and 222 more."
        self.assert_failed(result, says)
        self.assertEqual(sum(line.endswith(" 204") for line in self.written()), 226)
        self.no_fault()
        self.assert_done(self.run_hook(HOOK), "451 devices have the backup proxy 192.0.2.20; 225 of them were changed")

    def test_a_provd_that_stalls_ends_the_hook_after_three_timeouts(self):
        self.start_provd()
        self.fault("PUT", "device.*", "stall")
        began = time.monotonic()
        self.assert_failed(self.run_hook(HOOK), "device0001: provd did not answer", "also device0002, device0003; the devices after")
        self.assertLess(time.monotonic() - began, 5)

    def test_if_provd_stops_in_the_middle_the_device_is_named(self):
        self.start_provd()
        self.fault("PUT", "device0002", 500)
        with open(self.path("faults.json"), "r+", encoding="utf-8") as file:
            faults = json.load(file) + [{"method": "PUT", "id": "device0007", "fault": "close"}]
            file.seek(0)
            json.dump(faults, file)
        result = self.run_hook(HOOK)
        self.assert_failed(result, "configuration device0007: provd does not", "also device0002; the devices after that were not")
        self.assertEqual(self.config("device0008")["raw_config"].get("sip_backup_proxy_ip"), None)

    def test_if_the_list_breaks_off_the_last_device_is_named(self):
        self.start_provd()
        find = self.server.configs.find
        self.server.configs.find = lambda **how: [{"no": "id"}] if how["skip"] == 100 else find(**how)
        self.assert_failed(self.run_hook(HOOK), "list of device configurations after device0096: ")


if __name__ == "__main__":
    unittest.main()
