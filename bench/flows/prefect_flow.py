"""``prefect_flow.py call|process N``: N tasks that do nothing, two at a time; prints the seconds that the flow took."""

import subprocess
import sys
import time

from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner


@task
def call(_number):
    return None


@task
def process(_number):
    subprocess.run(["true"], check=True)


@flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
def many(count, chosen):
    futures = {"call": call, "process": process}[chosen].map(range(count))
    for future in futures:
        future.result()


if __name__ == "__main__":
    started = time.perf_counter()
    many(int(sys.argv[2]), sys.argv[1])
    print("SECONDS", time.perf_counter() - started, flush=True)
