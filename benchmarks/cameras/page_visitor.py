"""Somebody who looks at a live page all the time: the page, its data, its metrics and one camera's pictures.

    python -m benchmarks.cameras.page_visitor URL SOURCE

Ends when its standard input does, and prints what it has read, as JSON; with an exit code when something was wrong.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.request

_PAUSE_S = 0.5
_LIMIT_S = 10.0


def get(url: str) -> bytes:
    """What is there.

    Raises:
        OSError: nothing.
    """
    with urllib.request.urlopen(url, timeout=_LIMIT_S) as answer:
        body: bytes = answer.read()
        return body


class Pictures:
    """Looks at one source's MJPEG in a thread; the connection is given up after 1000 pictures, for a new one."""

    def __init__(self, url: str) -> None:
        self._url, self.count, self._stop = url, 0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.is_set():
            try:
                with urllib.request.urlopen(self._url, timeout=_LIMIT_S) as answer:
                    for _ in range(1000):
                        answer.readline()
                        answer.readline()
                        size = int(answer.readline().split(b":")[1])
                        answer.readline()
                        if not answer.read(size).startswith(b"\xff\xd8"):
                            raise ValueError("that is no JPEG")
                        answer.readline()
                        self.count += 1
                        if self._stop.is_set():
                            return
            except (OSError, ValueError, IndexError):  # not there yet, or no longer
                self._stop.wait(_PAUSE_S)

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


def main() -> int:
    """Look until told to stop."""
    url, source = sys.argv[1].rstrip("/"), sys.argv[2]
    told = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        told.set()

    threading.Thread(target=listen, daemon=True).start()
    pictures = Pictures(f"{url}/view/{source}")
    rounds, wrong = 0, []
    while not told.is_set():
        try:
            page, status, metrics = get(f"{url}/"), json.loads(get(f"{url}/status.json")), get(f"{url}/metrics")
        except (OSError, ValueError) as error:
            if not told.wait(2 * _PAUSE_S):  # at the end of a run the page is gone first
                wrong.append(f"round {rounds}: {error}")
            continue
        if b"</html>" not in page or "sources" not in status or b"edgevision_frames_processed" not in metrics:
            wrong.append(f"round {rounds}: something is missing")
        rounds += 1
        time.sleep(_PAUSE_S)
    pictures.end()
    print(json.dumps({"rounds": rounds, "pictures": pictures.count, "wrong": wrong[:5]}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
