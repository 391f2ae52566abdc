#!/usr/bin/python3 -IB
"""The result of the setup wizard on an exchange: its files, and provd's first configurations with any number of devices.

What is there already stays as it is.
"""

import argparse
import json
import os

PROVD = "/var/lib/xivo-provd/jsondb/configs"
ADDRESS = "192.0.2.10"

FILES = {
    "/etc/xivo/common.conf": f"""\
# Written by the setup wizard.
XIVO_HOSTNAME="exchange"
XIVO_NET4_IFACE="eth0"
XIVO_NET4_IP="{ADDRESS}"
XIVO_PROVD_REST_NET4_IP="127.0.0.1"
XIVO_PROVD_REST_PORT="8666"
""",
    "/etc/pf-xivo/web-interface/xivo.ini": """\
; Written by the setup wizard.
[general]
datastorage = "postgresql://xivo:proformatique@localhost/xivo?charset=utf8"
; What visitors see before they log in.
language = fr
territory = FR

[error]
level = 2047
; The language of the error page is another matter.
language = fr
""",
    # The address of the other node of a pair.
    "/etc/xivo/ha.conf": json.dumps({"node_type": "master", "remote_address": "192.0.2.20"}),
}


def configs(devices):
    # Its address is that of the machine which this one was cloned from.
    yield config("base", [], {"X_xivo_phonebook_ip": "192.0.2.1", "ntp_enabled": True, "ntp_ip": ADDRESS}, "internal")
    lines = {"1": {"display_name": "Autoprov", "proxy_ip": ADDRESS, "registrar_ip": ADDRESS, "username": "autoprov"}}
    yield config("autoprov", ["base"], {"sip_lines": lines}, "internal") | {"role": "autocreate"}
    yield config("default", [], {"proxy_main": ADDRESS, "registrar_main": ADDRESS}, "registrar")
    yield config("defaultconfigdevice", ["base"], {"locale": "fr_FR", "admin_password": "1234"}, "device")
    for number in range(1, devices + 1):
        lines = {
            str(line): {
                "auth_username": f"u{number}l{line}",
                "display_name": f"Agent {number}",
                "number": str(1000 + number),
                "password": "5ecr3t",
                "proxy_ip": ADDRESS,
                "registrar_ip": ADDRESS,
            }
            for line in range(1, 1 + number % 2 + 1)
        }
        keys = {str(key): {"type": "speeddial", "value": str(1000 + key), "label": f"Agent {key}"} for key in range(1, 9)}
        raw = {"protocol": "SIP", "sip_lines": lines, "funckeys": keys, "exten_voicemail": "*98"}
        yield config(f"device{number:04}", ["base", "defaultconfigdevice"], raw, "device")


def config(name, parents, raw, kind):
    return {"id": name, "parent_ids": parents, "deletable": kind == "device", "X_type": kind, "raw_config": raw}


def write(path, content):
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(content)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=3)
    for path, content in FILES.items():
        write(path, content)
    for document in configs(parser.parse_args().devices):
        write(f"{PROVD}/{document['id']}", json.dumps(document))
