"""The product beside learnd, as a process of its own: users ask, the served model answers, feedback goes to Kafka.

Owns: reading what is served now, and the records. Refuses to know learnd's database. Called by `stream_banking77` as
`python -m tests.benchmarks._producer`; reads paths of specs from its standard input, a line each, and answers each with a
JSON line of what it produced.
"""

import json
import random
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from kafka import KafkaProducer

from daemon import models
from daemon.clock import SystemClock
from daemon.demo.stage import current
from daemon.probes.checks import normalise

RESENT = 0.02


def main() -> None:
    """One spec after the other, until nobody asks any more."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        told = _play(json.loads(Path(line.strip()).read_text(encoding="utf-8")))
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


def _play(spec: dict[str, Any]) -> dict[str, Any]:
    """Ask, answer, rate all, correct what is wrong, produce; a few records are sent twice, as transports do."""
    ref = current(Path(spec["serving"]))
    model = models.load(ref)
    asked = [[{"role": "user", "content": query["text"]}] for query in spec["queries"]]
    said = model.answer(asked, max_new_tokens=spec["max_new_tokens"])
    records = [
        _record(spec, ref.name, number, *pair) for number, pair in enumerate(zip(spec["queries"], said, strict=True))
    ]
    rng = random.Random(spec["name"])
    again = [record for record in records if rng.random() < RESENT]
    producer = KafkaProducer(bootstrap_servers=spec["bootstrap"], acks="all", linger_ms=20)
    for record in [*records, *again]:
        producer.send(spec["topic"], json.dumps(record).encode(), key=record["id"].encode())
    producer.flush()
    producer.close()
    right = sum("correction" not in record for record in records)
    return {"version": ref.name, "unique": len(records), "sent": len(records) + len(again), "right": right}


def _record(spec: dict[str, Any], version: str, number: int, query: dict[str, str], said: str) -> dict[str, Any]:
    right = normalise(said) == normalise(query["answer"])
    time = datetime.fromtimestamp(SystemClock().now(), UTC).isoformat().replace("+00:00", "Z")
    record = {
        "id": f"{spec['name']}-{number}",
        "time": time,
        "deployment": spec["deployment"],
        "model_version": version,
        "messages": [{"role": "user", "content": query["text"]}],
        "response": said,
        "rating": 1 if right else -1,
        "user": f"customer {spec['name']} {number}",
    }
    return record if right else {**record, "correction": query["answer"]}


if __name__ == "__main__":
    main()
