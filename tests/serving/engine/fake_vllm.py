"""An interpreter that has vLLM, as far as the engine can tell: run as `fake_vllm.py FOLDER ARGS…`.

`-c` is answered with the versions in FOLDER/control.json, `-m` starts a server that does what that
file says, read again at every request. Each start adds a line to FOLDER/starts.jsonl.

    versions    what is installed
    start       serves | dies | deaf | stubborn (serves, and SIGTERM does nothing)
    answers     of a path: `hangs`, a status, or a body in place of the right one
    ids         what it writes, cut to max_tokens; width: of its vectors
"""

import base64
import itertools
import json
import os
import signal
import struct
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path(sys.argv[1])


def control():
    return json.loads((FOLDER / "control.json").read_text())


def option(name):
    return sys.argv[sys.argv.index(f"--{name}") + 1] if f"--{name}" in sys.argv else None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    adapters: list[str] = []  # noqa: RUF012

    def do_GET(self):
        self.answer({})

    def do_POST(self):
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, request):
        told = control().get("answers", {}).get(self.path)
        if told == "hangs":
            time.sleep(60)
        status = told if isinstance(told, int) else 200
        key = f"Bearer {os.environ['VLLM_API_KEY']}"
        if self.path.startswith("/v1") and self.headers["Authorization"] != key:
            status = 401
        body = told if isinstance(told, str) else self.right(request)
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def right(self, request):
        said = control()
        if self.path == "/v1/models":
            names = [option("served-model-name"), *self.adapters]
            return {"data": [{"id": name} for name in names]}
        if self.path == "/v1/load_lora_adapter":
            self.adapters.append(request["lora_name"])
        if self.path == "/v1/unload_lora_adapter":
            self.adapters.remove(request["lora_name"])
        if self.path == "/v1/completions":
            ids = said["ids"][: request["max_tokens"]]
            choice = {
                "token_ids": ids,
                "logprobs": {"token_logprobs": [-0.5] * len(ids)},
                "finish_reason": "stop" if ids == said["ids"] else "length",
            }
            return {"choices": [choice]}
        if self.path == "/pooling":
            data = base64.b64encode(struct.pack("<f", 0.25) * said["width"]).decode()
            return {"data": [{"index": i, "data": data} for i in range(len(request["input"]))]}
        return {}

    def log_message(self, *args):
        pass


def main():
    said = control()
    if sys.argv[2] == "-c":
        print(json.dumps(said["versions"]))
        return
    # Part of the process group, as vLLM's engine core is.
    helper = subprocess.Popen(["sleep", "600"])
    modules = sys.argv[sys.argv.index("--lora-modules") + 1 :] if option("lora-modules") else []
    modules = itertools.takewhile(lambda text: not text.startswith("--"), modules)
    adapters = [json.loads(text)["name"] for text in modules]
    Handler.adapters = list(adapters)
    line = {"pid": os.getpid(), "helper": helper.pid, "line": sys.argv[2:], "adapters": adapters}
    with (FOLDER / "starts.jsonl").open("a") as file:
        file.write(json.dumps(line | {"environment": dict(os.environ)}) + "\n")
    print("vLLM is starting, or so it says", flush=True)
    if said["start"] == "dies":
        print("ValueError: no such model", flush=True)
        sys.exit(3)
    if said["start"] == "deaf":
        time.sleep(600)
    if said["start"] == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ThreadingHTTPServer((option("host"), int(option("port"))), Handler).serve_forever(0.02)


if __name__ == "__main__":
    main()
