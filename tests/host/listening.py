"""`python listening.py URL GRAPH.json OUT.json`, with a host's Python: queue a graph, write what is shown.

One JSON object: the prompt's id, and for each kind of message what was heard of it.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
from pathlib import Path

import aiohttp

TEXT, PICTURES = 3, (1, 4)  # kinds of binary messages
ENDS = {"execution_success", "execution_error", "execution_interrupted"}


async def listen(url: str, graph: dict) -> dict:
    heard = {"progress": [], "text": [], "pictures": 0}
    async with aiohttp.ClientSession() as session:
        address = f"{url.replace('http', 'ws')}/ws?clientId=listener"
        async with session.ws_connect(address, max_msg_size=0) as socket:
            body = {"prompt": graph, "client_id": "listener"}
            async with session.post(f"{url}/prompt", json=body) as answer:
                heard["prompt"] = (await answer.json())["prompt_id"]
            async for message in socket:
                if message.type == aiohttp.WSMsgType.BINARY:
                    hear_binary(message.data, heard)
                    continue
                event = json.loads(message.data)
                if event["type"] == "progress":
                    heard["progress"].append([event["data"][name] for name in ("node", "value", "max")])
                if event["type"] in ENDS:
                    return heard
    return heard


def hear_binary(data: bytes, heard: dict) -> None:
    """A line on a node is (length of the node's id, id, text); of a picture only its number counts."""
    (kind,) = struct.unpack(">I", data[:4])
    if kind in PICTURES:
        heard["pictures"] += 1
    if kind == TEXT:
        (length,) = struct.unpack(">I", data[4:8])
        heard["text"].append([data[8 : 8 + length].decode(), data[8 + length :].decode()])


if __name__ == "__main__":
    said = asyncio.run(listen(sys.argv[1], json.loads(Path(sys.argv[2]).read_text("utf8"))))
    Path(sys.argv[3]).write_text(json.dumps(said), "utf8")
