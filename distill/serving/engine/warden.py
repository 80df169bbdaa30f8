"""Runs a command in a process group of its own, and ends all of it when its parent is gone.

    python warden.py SECONDS COMMAND...

Started as a script; it needs nothing but the standard library of any Python. The parent holds the
other end of its standard input: where that end closes, because the parent closed it or died, the
command gets SIGTERM, and SECONDS later the whole group SIGKILL. What the command leaves of its
group when it ends by itself is killed, too. The exit status is the command's, 128 + n for signal n.
A killed warden cannot do any of this.
"""

import os
import select
import signal
import subprocess
import sys
import time

_POLL_S = 0.1


def main(arguments: list[str]) -> int:
    """Run the command to its end."""
    grace_s, command = float(arguments[0]), arguments[1:]
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda signalled, frame: asked.append(signalled))
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    end_by = None
    # Not reaped before its group is killed: until then no other process can have its number.
    while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if end_by is not None:
            time.sleep(_POLL_S)
            if time.monotonic() > end_by:
                os.killpg(child.pid, signal.SIGKILL)
        elif asked or (select.select([0], [], [], _POLL_S)[0] and not os.read(0, 4096)):
            os.kill(child.pid, signal.SIGTERM)
            end_by = time.monotonic() + grace_s
    os.killpg(child.pid, signal.SIGKILL)
    status = child.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
