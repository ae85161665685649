"""How long the studio's server takes for what a click asks, from a command to its graph, and what memory it needs.

Each network is shown by ``striate studio`` in a process of its own, and asked over HTTP as its page asks. A click on
something new is timed once, since the second time is answered from what the first one left.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measure import RESULTS, circumstances
from striate.studio.guard import TOKEN

#: Networks whose clicks are timed.
NETWORKS: Final = ("lenet5", "resnet50", "vit_b_32")
#: The network whose server's memory is told.
LARGEST: Final = "resnet152"
#: Seconds within which a click is to be answered, but for those that need gradients that aren't there yet.
GOAL: Final = 0.2
BACKWARDS: Final = ("how much each pixel counts", "gradients of another number")


class Server:
    """``striate studio`` in a process of its own, with random weights, that is asked as the page asks.

    Args:
        network: a network's name.
    """

    def __init__(self, network: str) -> None:
        begin = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "striate", "studio", network, "--weights", "random"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        place, _, self._token = self._process.stdout.readline().strip().removeprefix("http://").partition("/?token=")
        self._connection = HTTPConnection(place, timeout=300)
        #: Seconds from the command's start to the page, and to what the graph is drawn of.
        self.seconds: dict[str, float] = {}
        self._connection.request("GET", "/")
        self._connection.getresponse().read()
        self.seconds["page"] = time.perf_counter() - begin
        self.json("subject")
        self.graph = self.json("network")
        self.seconds["graph"] = time.perf_counter() - begin

    def ask(self, path: str, query: Mapping[str, Any] | None = None) -> tuple[bytes, float]:
        """The body of an answer, and its seconds; an answer that the studio is still starting is asked for again."""
        address = f"/api/{path}?{urlencode(query)}" if query else f"/api/{path}"
        while True:
            begin = time.perf_counter()
            self._connection.request("GET", address, headers={TOKEN: self._token})
            response = self._connection.getresponse()
            body = response.read()
            seconds = time.perf_counter() - begin
            if response.status == 200:
                return body, seconds
            if response.status != 202:
                raise RuntimeError(f"{address}: {response.status}, {body[:300]!r}")

    def json(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        return json.loads(self.ask(path, query)[0])

    def peak(self) -> int | None:
        """The most memory that the process has had, bytes; None where the system doesn't tell."""
        status = Path(f"/proc/{self._process.pid}/status")
        if not status.exists():
            return None
        line = next(each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) << 10

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def clicks(server: Server, count: int, seed: int) -> Iterator[tuple[str, float]]:
    """The kind and the seconds of every call that clicks make, on ``count`` tensors spread over the network."""
    chance = random.Random(seed)
    listed = server.json("tensors")["tensors"]
    results = [each for each in listed if each["kind"] == "activation" and each["shape"] and 0 not in each["shape"]]
    weights = [each for each in listed if each["kind"] == "parameter" and len(each["shape"]) >= 2]

    def timed(kind: str, path: str, query: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
        yield kind, server.ask(path, query)[1]

    # Open boxes one after the other, as somebody who goes through the network.
    opened = list(server.graph["open"])
    for node in spread([each for each in server.graph["nodes"] if each["opens"]], count):
        opened.append(node["id"])
        yield from timed("open a box", "network", {"open": ",".join(opened), "width": 1200})
    for words in ("conv", "relu", "1"):
        yield from timed("search", "network/search", {"q": words})
    for each in spread(results, count):
        value, at = each["value"], anywhere(each["shape"], chance)
        yield from timed("maps of a tensor", f"tensor/{value}", {"size": 96, "single": 560, "channels": "0-63"})
        for _ in range(4):  # the number, and the walk on from it
            body, seconds = server.ask(f"value/{value}", {"at": at})
            yield "a number followed back", seconds
            yield from timed("what a number sees", f"value/{value}/field", {"at": at})
            yield from timed("how much each pixel counts", f"value/{value}/strength", {"at": at})
            found = json.loads(body)
            hop = next(
                (hop for hop in found["hops"] if found["operands"][str(hop["value"])]["valueKind"] != "parameter"), None
            )
            if hop is None:
                break
            sample = {"size": 96, "single": 300, "channels": "0-23"}
            yield from timed("a number's window", f"tensor/{hop['value']}", sample)
            value, at = hop["value"], ",".join(map(str, hop["place"]))
    for each in spread(weights, count):
        yield from timed("maps of a weight", f"tensor/{each['value']}", {"size": 96, "single": 560, "channels": "0-63"})
    told = server.json("gradients")
    target = told["target"]
    known = set(told["values"])
    for label in range(3):
        query = {"of": target["value"], "label": label} if told["losses"] else {}
        yield from timed("gradients of another number", "gradients", query)
    server.ask("gradients")  # those that the maps below are of
    for each in spread([each for each in results if each["value"] in known], count):
        query = {"first": 0, "count": 24, "size": 112}
        body, seconds = server.ask(f"gradients/{each['value']}/maps", query)
        yield "maps of a gradient", seconds
        length = int.from_bytes(body[:4], "little")
        for edge in json.loads(body[4 : 4 + length])["edges"][:2]:
            query |= {"edge": edge["operation"]}
            yield from timed("an edge of a gradient", f"gradients/{each['value']}/maps", query)
    for each in spread([each for each in weights if each["value"] in known], count):
        query = {"at": anywhere(each["shape"], chance)}
        yield from timed("maps of a weight's gradient", f"gradients/{each['value']}/maps", {"count": 24, "size": 112})
        yield from timed("a weight's gradient by places", f"gradients/{each['value']}/weight", query)


def spread(listed: Sequence[Any], count: int) -> list[Any]:
    """So many of a list, from its begin to its end."""
    if len(listed) <= count:
        return list(listed)
    return [listed[round(rank * (len(listed) - 1) / (count - 1))] for rank in range(count)]


def anywhere(shape: Sequence[int], chance: random.Random) -> str:
    """A place in a tensor as an address writes it."""
    return ",".join(str(chance.randrange(length)) for length in shape)


def measured(network: str, count: int, seed: int) -> dict[str, Any]:
    """What a network's server needs: seconds to the page and to the graph, and of each kind of click."""
    with Server(network) as server:
        first = {"page": server.seconds["page"], "graph": server.seconds["graph"]}
        time.sleep(4)  # until views that nobody has asked for are imported
        _, back = server.ask("gradients")  # runs the network once more, with gradients
        seconds: dict[str, list[float]] = {}
        for kind, each in clicks(server, count, seed):
            seconds.setdefault(kind, []).append(each)
        peak = server.peak()
    return {
        "network": network,
        "seconds to the page": round(first["page"], 2),
        "seconds to the graph": round(first["graph"], 2),
        "seconds to the first gradients": round(back, 3),
        "peak bytes": peak,
        "clicks": {
            kind: {
                "count": len(each),
                "median ms": round(1e3 * statistics.median(each), 1),
                "most ms": round(1e3 * max(each), 1),
            }
            for kind, each in seconds.items()
        },
    }


def main(
    only: Annotated[str, typer.Option(help="Only networks whose name contains this.")] = "",
    count: Annotated[int, typer.Option(help="How many tensors of a network are clicked on.", min=2)] = 24,
    seed: Annotated[int, typer.Option(help="Of the places in them.")] = 0,
    save: Annotated[bool, typer.Option(help="Write results/studio.json.")] = False,
) -> None:
    """Times what clicks ask of the studio's server, with random weights, and tells its memory for ResNet-152.

    Example: python -m benchmarks studio --only resnet50
    """
    told = circumstances() | {"threads": os.environ.get("OMP_NUM_THREADS", circumstances()["threads"])}
    console = Console(width=120)
    console.print(", ".join(told.values()), highlight=False)
    rows = [measured(name, count, seed) for name in NETWORKS if only in name]
    for row in rows:
        console.print(
            f"{row['network']}: the page after {row['seconds to the page']} s, the graph after "
            f"{row['seconds to the graph']} s, the first gradients {row['seconds to the first gradients']} s",
            highlight=False,
        )
        table = Table("click", "calls", "median ms", "most ms", box=None)
        for kind, each in row["clicks"].items():
            late = "red" if each["most ms"] > 1e3 * GOAL and kind not in BACKWARDS else None
            table.add_row(kind, *map(str, each.values()), style=late)
        console.print(table)
    largest: dict[str, Any] = {}
    if only in LARGEST:
        with Server(LARGEST) as server:
            server.json("network/fields")
            largest = {"network": LARGEST, "seconds to the graph": round(server.seconds["graph"], 2)}
            values = [value for node in server.graph["nodes"] for value in node["values"][:1]]
            server.ask("network/thumbnails", {"values": ",".join(map(str, values[:400]))})
            largest["peak bytes of a first view"] = server.peak()
            server.json("gradients")
            largest["peak bytes with gradients"] = server.peak()
        console.print(", ".join(f"{name} {value}" for name, value in largest.items()), highlight=False)
    if save:
        RESULTS.mkdir(exist_ok=True)
        content = {**told, "count": count, "seed": seed, "networks": rows, "largest": largest}
        (RESULTS / "studio.json").write_text(json.dumps(content, indent=2) + "\n")
