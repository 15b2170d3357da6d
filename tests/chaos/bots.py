"""The code of bots that report each tick with the kernel's time, well-behaved and hostile ones, for Python.

A tick is a line in a file of the container's own `/tmp`. The observer opens that file from outside and keeps it open:
what was written can be read after the container's end, whatever happens to output, engine and worker. A bot with
`config.counts` keeps a count of its ticks in `/state`, and prints it as a metric; each tick names the count that was
written before it.
"""

TICKS = "/tmp/the0-chaos-ticks"
INTERVAL_SECONDS = 0.1

_TICKER = f"""
import json, os, signal, sys, time

def tick(id, config):
    file = open({TICKS!r}, "ab", buffering=0)
    head = {{"id": id, "number": config.get("number", 0)}}
    counts = config.get("counts", False)
    if counts:
        count = head["count"] = int(open("/state/count").read()) if os.path.exists("/state/count") else 0
    file.write(json.dumps(head).encode() + b"\\n")
    ends = time.monotonic() + config.get("seconds", 1e9)
    while time.monotonic() < ends:
        line = b"%.4f" % time.monotonic()
        if counts:
            count += 1
            open("/state/count.new", "w").write(str(count))
            os.rename("/state/count.new", "/state/count")
            line += b" %d" % count
            if count % 10 == 0:
                print(json.dumps({{"_metric": "count", "value": count}}), flush=True)
        file.write(line + b"\\n")
        time.sleep({INTERVAL_SECONDS})
"""

BOT = _TICKER + """
def main(id, config):
    print("up", config.get("number"), flush=True)
    tick(id, config)
    return {"number": config.get("number", 0)}
"""
"""Ticks until it is stopped, or for `config.seconds`, and returns the number in its config."""

DEAF = _TICKER + """
def main(id, config):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            tick(id, config)
        os._exit(0)
    while True:
        time.sleep(1)
"""
"""Ignores SIGTERM, and ticks in a process that has left its session and its parent."""

HOSTILE_BACKTEST = _TICKER + """
def main(id, config):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        while True:
            time.sleep(1)
    tick(id, config)
    for path in ("/backtest/result.json", "/the0/private/outcome", "/the0/keepalive/lease"):
        try:
            open(path, "w").write("{" * 100_000)
        except OSError:
            pass
    sys.stdout.write("x" * 1_000_000 + "\\n" + '{"success": true}' * 100)
    sys.stdout.flush()
    os._exit(3)
"""
"""Leaves a process behind, writes into the runtime's files, floods its output, and ends without a result."""
