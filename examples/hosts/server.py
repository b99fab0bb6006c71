"""Stands for a scoring service and a model, so that the example needs no network: `python -m examples.hosts.server`.

It speaks what those speak: JSON over POST, and the chat completions of OpenAI-compatible servers. The model repeats.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Answers(BaseHTTPRequestHandler):
    """Answers POST /score and POST /v1/chat/completions."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer one request."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer: Any
        if self.path == "/score":
            status, answer = 200, {"score": len(str(body)) % 10}
        elif self.path == "/v1/chat/completions":
            said = f"you said {body['messages'][-1]['content']!r}, {len(body['messages'])} messages so far"
            if body.get("stream"):
                self._stream(said)
                return
            status, answer = 200, {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}}]}
        else:
            status, answer = 404, {"error": "there is nothing here"}
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _stream(self, said: str) -> None:
        """Say it word by word."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        words = said.split(" ")
        pieces = [word + " " for word in words[:-1]] + words[-1:]
        events = [json.dumps({"choices": [{"index": 0, "delta": {"content": piece}}]}) for piece in pieces]
        for event in (*events, "[DONE]"):
            self.wfile.write(f"data: {event}\n\n".encode())
            self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def main(port: int) -> None:
    """Serve until interrupted."""
    with ThreadingHTTPServer(("127.0.0.1", port), Answers) as server:
        sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 8900)
    except KeyboardInterrupt:
        sys.exit(0)
