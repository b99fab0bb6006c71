"""A program that agents are hosted in: JSON lines in, JSON lines out. It does what the message says."""

import json
import os
import signal
import sys
import time

handled = 0
for line in sys.stdin:
    call = json.loads(line)
    body = call["body"]
    handled += 1
    match body:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(600)
        case {"hang_once": path} if not os.path.exists(path):
            with open(path + ".new", "w") as file:
                file.write(str(os.getpid()))
            os.rename(path + ".new", path)
            time.sleep(600)
        case "long":
            print("x" * (3 << 20), flush=True)
            continue
        case "nonsense":
            print("this is no answer", flush=True)
            continue
        case "error":
            answer = {"id": call["id"], "error": "it cannot be done"}
        case _:
            answer = {"id": call["id"], "result": [call["name"], os.environ["SWELL_AGENT"], body, os.getpid(), handled]}
    print(json.dumps(answer), flush=True)
