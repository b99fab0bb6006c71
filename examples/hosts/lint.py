"""A program that knows nothing of Swell: it reads a line of JSON, and answers with one."""

import json
import sys

for line in sys.stdin:
    call = json.loads(line)
    try:
        text = open(call["body"], encoding="utf-8").read()  # noqa: SIM115 - as people write it
        found = [n for n, text_line in enumerate(text.splitlines(), 1) if len(text_line) > 100]
        answer = {"id": call["id"], "result": {"lines": len(text.splitlines()), "too_long": found}}
    except OSError as error:
        answer = {"id": call["id"], "error": str(error)}
    print(json.dumps(answer), flush=True)
