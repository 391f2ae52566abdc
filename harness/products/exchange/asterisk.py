#!/usr/bin/python3 -IB
"""A stand-in for asterisk: `asterisk -f` is the exchange, `asterisk -rx COMMAND` asks it something.

Like the real one it is there for systemd before it can take calls: it loads its modules first, and for as long as the file
/var/lib/asterisk/loading is there. `core waitfullybooted` answers when it is done.
"""

import os
import socket
import sys
import threading
import time

NAME, VERSION = "@NAME@", "@VERSION@"
CONTROL = "/run/asterisk.ctl"
LOADING = "/var/lib/asterisk/loading"

# Seconds to load the modules. The services after it would start earlier if systemd or the upgrader did not wait.
MODULES = 0.5


def serve():
    booted = threading.Event()
    threading.Thread(target=boot, args=[booted], daemon=True).start()
    if os.path.exists(CONTROL):
        os.unlink(CONTROL)
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(CONTROL)
        control.listen()
        with open(f"/run/{NAME}.running", "w", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {VERSION}\n")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
        while True:
            client, _ = control.accept()
            threading.Thread(target=answer, args=[client, booted], daemon=True).start()


def boot(booted):
    time.sleep(MODULES)
    while os.path.exists(LOADING):
        time.sleep(0.05)
    print("Asterisk Ready.", flush=True)
    booted.set()


def answer(client, booted):
    with client:
        command = client.recv(1000).decode()
        if command == "core waitfullybooted":
            booted.wait()
            client.sendall(b"Asterisk has fully booted.\n")
        elif command == "core show version":
            client.sendall(f"Asterisk {VERSION}\n".encode())
        else:
            client.sendall(f"No such command '{command}' (type 'core show help {command}' for other possible commands)\n".encode())


def ask(command):
    try:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(CONTROL)
            control.sendall(command.encode())
            # An end without an answer is the end of the exchange.
            answer = control.makefile().read()
    except OSError:
        answer = ""
    if not answer:
        sys.exit(f"Unable to connect to remote asterisk (does {CONTROL} exist?)")
    print(answer, end="")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["-f"]:
            serve()
        case ["-rx", command]:
            ask(command)
        case _:
            sys.exit("Usage: asterisk -f | -rx COMMAND")
