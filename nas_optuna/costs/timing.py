"""Timing calls in visits, and ONNX models by ONNX Runtime.

Every latency kit has a copy of this file as its ``measure.py`` (`nas_optuna.costs.latency_kit`), so that a device
without PyTorch is measured exactly as this machine. It runs alone, under Python 3.9 with ONNX Runtime.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

FORMAT = "nas-optuna latency kit 1"
TABLE_FORMAT = "nas-optuna latency table 1"
WARM_UP = 3
CALLS = 5
"""The fewest timed calls of a visit; fast calls are repeated as often as its seconds allow."""
SECONDS = 0.012
"""Length of a visit; several short ones are not all affected by the same disturbance."""
ROUNDS = 4
LOOK = 0.5
"""Seconds between two visits of the reference operation."""
LEAST_LOOKS = 8
"""Fewer visits of the reference operation cannot tell throttling from chance."""
DRIFT = 1.15
"""A device is throttled or busy if the reference operation is slower than its fastest visit by this factor."""
SPREAD = 1.25
"""A measurement is doubtful if the two fastest visits of an operation differ by more than this factor."""
TRUSTED_ERROR = 0.1
SAVE_EVERY = 5.0
"""Seconds of measuring that a killed process can lose."""
PRECISIONS = ("fp32", "int8")

Visit = tuple[float, float, float]
"""Lower quartile, median and upper quartile of one visit's calls, in milliseconds."""


def visit(call: Callable[[], float], seconds: float) -> Visit:
    """Time repeated calls."""
    for _ in range(WARM_UP):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < CALLS or time.perf_counter() < end:
        times.append(call())
    lower, median, upper = statistics.quantiles(times, n=4)
    return lower, median, upper


def visit_in_rounds(
    visits: Mapping[Any, list[Visit]],
    measure: Callable[[Any], Visit],
    rounds: int,
    told: Callable[[int, int], None],
    save: Callable[[], None] = lambda: None,
) -> None:
    """Add to the visits of each place one a round, every round in another random order, unless it has as many."""
    # A machine's speed drifts and is disturbed for seconds. With several visits in random order this affects all places
    # alike, and leaves some visits undisturbed. What is measured is saved as it grows and when it is interrupted.
    total, done = rounds * len(visits), sum(min(rounds, len(found)) for found in visits.values())
    told(done, total)
    saved = time.monotonic()
    try:
        for turn in range(rounds):
            order = sorted(place for place, found in visits.items() if len(found) <= turn)
            random.Random(turn).shuffle(order)
            for place in order:
                visits[place].append(measure(place))
                done += 1
                told(done, total)
                if time.monotonic() - saved > SAVE_EVERY:
                    save()
                    saved = time.monotonic()
    finally:
        save()


def fastest(visits: Iterable[Visit]) -> float:
    """One latency for several visits: the median of the fastest visit."""
    # Other processes slow a machine down for seconds at a time, and never speed it up. If half of the visits were
    # disturbed, their median would be, too.
    return min(median for _, median, _ in visits)


def session_call(model: Any, threads: int, images: Any = None) -> Callable[[], float]:
    """A call that runs an ONNX model once and returns the milliseconds."""
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    if images is None:
        images = numpy.random.default_rng(0).standard_normal(given.shape).astype("float32")
    feed = {given.name: images}

    def call() -> float:
        start = time.perf_counter()
        session.run(None, feed)
        return (time.perf_counter() - start) * 1e3

    return call


def slow_looks(looks: Sequence[Visit]) -> int:
    """How many visits of the reference operation show a throttled or busy device; 0 if they are few."""
    medians = [median for _, median, _ in looks]
    slow = sum(median > DRIFT * min(medians) for median in medians)
    return slow if len(medians) >= LEAST_LOOKS and slow > len(medians) / 4 else 0


def main() -> int:
    """Measure the kit in this file's folder, and print the table to the standard output."""
    parser = argparse.ArgumentParser(
        description="Measure the operations of a search space on this device, with ONNX Runtime alone.",
        epilog="Example: python measure.py > table.json    (Ctrl-C stops it, the same command goes on)",
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="of weights and activations (default: fp32)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of one operation (default: 1)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"visits of each operation (default: {ROUNDS})")
    parser.add_argument("--again", action="store_true", help="forget what an earlier call has measured")
    chosen = parser.parse_args()
    if chosen.threads < 1 or chosen.rounds < 1:
        parser.error("--threads and --rounds must be at least 1")
    folder = Path(__file__).resolve().parent
    try:
        kit = json.loads((folder / "kit.json").read_text(encoding="utf-8"))
        if kit["format"] != FORMAT:
            raise ValueError(f"it is of another version ({kit['format']!r}); write the kit and this file anew")
        import onnxruntime
    except (OSError, ValueError, KeyError, TypeError) as error:
        return _refuse(f"{folder / 'kit.json'} cannot be used: {error}")
    except ImportError as error:
        return _refuse(f"ONNX Runtime is missing ({error}): pip install onnxruntime")
    if chosen.precision not in kit["precisions"]:
        return _refuse(f"this kit holds {', '.join(kit['precisions'])}; choose one of them with --precision")
    conditions = {
        "device": "cpu",
        "device_name": device_name(),
        "runtime": "onnxruntime",
        "version": onnxruntime.__version__,
        "threads": chosen.threads,
        "batch_size": kit["batch_size"],
        "precision": chosen.precision,
    }
    try:
        table = _measure(folder, kit, conditions, chosen.rounds, chosen.again)
    except KeyboardInterrupt:
        _say("stopped; what is measured is kept, and the same command goes on from there")
        return 130
    except Exception as error:
        return _refuse(f"this kit cannot be measured: {error}")
    print(json.dumps(table))
    return 0


def _measure(
    folder: Path, kit: Mapping[str, Any], conditions: Mapping[str, Any], rounds: int, again: bool
) -> dict[str, Any]:
    """Visit every operation and network, each round in another order, continuing an earlier call."""
    precision, threads = conditions["precision"], conditions["threads"]
    parts = {"entries": kit["operations"], "networks": kit["networks"]}
    models = {(kind, key): files[precision] for kind, part in parts.items() for key, files in part.items()}
    file = folder / f"measured-{precision}-{threads}.json"
    table = _begun(file, kit, conditions, again)
    visits = {(kind, key): table[kind].setdefault(key, []) for kind, key in models}
    call = functools.lru_cache(None)(lambda model: session_call(str(folder / model), threads))
    watch = _Watch(call(kit["reference"]), table["looks"])
    visit_in_rounds(
        visits, lambda place: visit(call(models[place]), SECONDS), rounds, watch.look, lambda: _save(file, table)
    )
    watch.report(visits)
    return {**table, "overhead_ms": _overhead(kit, table)}


def _begun(file: Path, kit: Mapping[str, Any], conditions: Mapping[str, Any], again: bool) -> dict[str, Any]:
    """The table of an earlier call with this kit under these conditions, or an empty one."""
    date = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    head = {"format": TABLE_FORMAT, "space": kit["space"], "conditions": conditions, "kit": kit["id"]}
    empty: dict[str, Any] = {**head, "date": date, "entries": {}, "networks": {}, "looks": []}
    try:
        known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return known if not again and all(known[key] == head[key] for key in head) else empty
    except (OSError, ValueError, KeyError, TypeError):
        return empty


def _save(file: Path, table: Mapping[str, Any]) -> None:
    """Write the table atomically."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(table), encoding="utf-8")
    os.replace(partial, file)


def _overhead(kit: Mapping[str, Any], table: Mapping[str, Any]) -> float:
    """The time of a network beside its operations, from the kit's whole networks; prints the error of the sums."""
    pairs = [
        (fastest(found), sum(fastest(table["entries"][key]) for key in kit["networks"][text]["operations"]))
        for text, found in table["networks"].items()
    ]
    if not pairs or not table["entries"]:
        return 0.0
    overhead = statistics.median(measured - total for measured, total in pairs)
    error = statistics.median(abs(total + overhead - measured) / measured for measured, total in pairs)
    _say(f"{len(pairs)} whole networks: the table is off by {error:.1%} of their latency (median)")
    if error > TRUSTED_ERROR:
        _say("warning: that is much; measure again (--again) when the device is idle, or raise --rounds")
    return overhead


class _Watch:
    """Reports progress, and whether the device was throttled or busy meanwhile."""

    def __init__(self, reference: Callable[[], float], looks: list[Visit]) -> None:
        self._reference = reference
        self._looks = looks
        self._said = self._looked = time.monotonic() - 10
        self._begun, self._first = time.monotonic(), -1

    def look(self, done: int, total: int) -> None:
        """Visit the reference operation now and then, and report progress every five seconds."""
        now = time.monotonic()
        if self._first < 0:
            self._first = done
            return
        if now - self._looked > LOOK:
            self._looks.append(visit(self._reference, SECONDS))
            self._looked = now
        if now - self._said > 5 or done == total:
            left = (now - self._begun) / (done - self._first) * (total - done)
            _say(f"{done} of {total} visits, about {left:.0f} s left")
            self._said = now

    def report(self, visits: Mapping[tuple[str, str], list[Visit]]) -> None:
        """Print what cannot be trusted."""
        slow = slow_looks(self._looks)
        if slow:
            _say(
                f"warning: in {slow} of {len(self._looks)} looks this device was more than {DRIFT - 1:.0%} slower than"
                " at its fastest: it is throttled or does something else; let it cool or idle, then measure --again"
            )
        medians = {place: sorted(median for _, median, _ in found) for place, found in visits.items()}
        doubtful = [key for (_, key), found in medians.items() if found[1:] and found[1] > SPREAD * found[0]]
        if doubtful:
            shown = "".join(f"\n  {key}" for key in doubtful[:5])
            _say(
                f"not to be trusted: {len(doubtful)} of {len(visits)}, whose visits differ; more --rounds help:{shown}"
            )


def device_name() -> str:
    """The processor's name by its maker."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    said = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    names = [said.get(key, "") for key in ("model name", "model", "hardware")]
    # An x86 processor's "model" is a number; on an Arm board it is the board's name.
    found = [name for name in names if name and not name.isdigit()]
    return found[0] if found else platform.processor() or platform.machine()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _refuse(text: str) -> int:
    _say(f"error: {text}")
    return 2


if __name__ == "__main__":
    try:
        code = main()
    except BrokenPipeError:  # the reader of the table has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
