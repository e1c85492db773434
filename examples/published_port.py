"""A published port: serve on port 80 of a view, and fetch a page from the host.

.venv/bin/python examples/published_port.py
"""

from __future__ import annotations

import os
import urllib.request

from overlaykit import View

# Port 0 of the host: the kernel chooses a free one.
with View(["host"], name="web", ports=["127.0.0.1:0:80"]) as view:
    reader, writer = os.pipe()
    with open(writer, "wb"):
        processes = view.launch(
            ["python3", "-u", "-m", "http.server", "80"],
            cwd="/usr/share/doc",
            redirected={1: writer},
        )
    with open(reader) as output:
        print(output.readline().strip())  # the server listens
        port = processes.ports[0]
        url = f"http://{port.address}:{port.host}/"
        with urllib.request.urlopen(url) as page:
            print(f"{url} answers {page.status}")
# The view has ended, and with it the server.
